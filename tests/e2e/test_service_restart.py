"""The service dies and comes back while a run polls."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.forked_processes import ForkServer
from tests.e2e.scenario import PACE, Scenario, Store
from tests.support.local_supervisor_process import LocalSupervisor


def test_a_run_survives_the_death_of_the_service(fork_server: ForkServer, tmp_path: Path) -> None:
    with LocalSupervisor(tmp_path / "service") as service:
        scenario = Scenario(fork_server, service, Store("sqlite", str(tmp_path / "thread.sqlite")))
        scenario.behaviour = {**PACE, "duration_s": 2.0}
        run = scenario.start(scenario.again)
        scenario.wait_for_polls(2)
        service.kill()
        assert run.wait_for("polling", len([e for e in run.events if e.get("name") == "polling"]) + 2)
        service.restart()
        scenario.check_answered(run.end())
        assert any(event.get("status") == "unreachable" for event in run.events)
        assert scenario.submissions == 1


def test_a_run_that_was_killed_with_the_service_is_resumed_when_both_are_back(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    with LocalSupervisor(tmp_path / "service") as service:
        scenario = Scenario(fork_server, service, Store("sqlite", str(tmp_path / "thread.sqlite")))
        run = scenario.start(scenario.again)
        scenario.wait_for_polls(2)
        service.kill()
        run.kill()
        service.restart()
        scenario.check_answered(scenario.run(None))
        assert scenario.submissions == 1
