"""The service dies and comes back while a run polls."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.forks import ForkServer
from tests.e2e.stories import PACE, Store, Story
from tests.support.local_supervisor_process import LocalSupervisor


def test_a_run_survives_the_death_of_the_service(forks: ForkServer, tmp_path: Path) -> None:
    with LocalSupervisor(tmp_path / "service") as service:
        story = Story(forks, service, Store("sqlite", str(tmp_path / "thread.sqlite")))
        story.behaviour = {**PACE, "duration_s": 2.0}
        run = story.start(story.again)
        story.wait_for_polls(2)
        service.kill()
        assert run.wait_for("polling", len([e for e in run.events if e.get("name") == "polling"]) + 2)
        service.restart()
        story.check_answered(run.end())
        assert any(event.get("status") == "unreachable" for event in run.events)
        assert story.submissions == 1


def test_a_run_that_was_killed_with_the_service_is_resumed_when_both_are_back(
    forks: ForkServer, tmp_path: Path
) -> None:
    with LocalSupervisor(tmp_path / "service") as service:
        story = Story(forks, service, Store("sqlite", str(tmp_path / "thread.sqlite")))
        run = story.start(story.again)
        story.wait_for_polls(2)
        service.kill()
        run.kill()
        service.restart()
        story.check_answered(story.run(None))
        assert story.submissions == 1
