"""Ctrl-C or a cancelled task in the middle of the POST: the job's id is kept, and a resume finds it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import SEED
from tests.e2e.forks import ForkServer
from tests.e2e.stories import PACE, Store, Story
from tests.local_supervisor_process import LocalSupervisor

TIMES = 50
WAYS = ("Ctrl-C", "cancelled task", "Ctrl-C in invoke", "Ctrl-C in stream")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_run_stopped_during_the_post_keeps_the_job_and_a_resume_finds_it(
    how: str, store: str, forks: ForkServer, service: LocalSupervisor, stores: Callable[[str], Store]
) -> None:
    stop(Story(forks, service, stores(store)), how, random.Random(f"{SEED} {how} {store}").randrange(TIMES))


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", WAYS)
def test_a_run_stopped_during_the_post_keeps_the_job_fifty_times(
    how: str, forks: ForkServer, service: LocalSupervisor, stores: Callable[[str], Store]
) -> None:
    for number in range(TIMES):
        stop(Story(forks, service, stores(("sqlite", "postgres")[number % 2])), how, number)


def stop(story: Story, how: str, number: int) -> None:
    chance = random.Random(f"{SEED} {how} {number}")
    story.durability = chance.choice(("sync", "inherit"))
    story.behaviour = {**PACE, "duration_s": 1.0, "answer_delay_s": 0.4}
    moment_s = chance.uniform(0, 0.35)
    if how == "cancelled task":
        run = story.start(story.again, cancel_s=moment_s)
    else:
        sync = {"Ctrl-C in invoke": "invoke", "Ctrl-C in stream": "stream"}.get(how)
        run = story.start(story.again, "drive_sync", how=sync) if sync else story.start(story.again)
        assert run.wait_for("posting")
        time.sleep(moment_s)
        run.signal(signal.SIGINT)
    run.wait()
    stopped = run.wait_for("stopped")
    assert stopped is not None, run.events[-3:]
    assert stopped["by"] == ("cancel" if how == "cancelled task" else "KeyboardInterrupt")
    assert story.submissions == 1
    assert story.ledger() == service_job(story)
    story.check_answered(story.resume())
    assert story.submissions == 1


def service_job(story: Story) -> str:
    (job,) = story.service.submissions(story.name)["jobs"]
    return str(job["id"])


@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-C in invoke"])
def test_an_impatient_second_ctrl_c_submits_nothing_twice(
    how: str, forks: ForkServer, service: LocalSupervisor, stores: Callable[[str], Store]
) -> None:
    story = Story(forks, service, stores("sqlite"))
    story.behaviour = {**PACE, "answer_delay_s": 0.6}
    function = "drive_sync" if how == "Ctrl-C in invoke" else "drive"
    run = story.start(story.again, function, how="invoke")
    assert run.wait_for("posting")
    for _ in range(2):
        time.sleep(0.1)
        run.signal(signal.SIGINT)
    run.wait()
    end = story.resume()
    assert story.submissions == 1
    if end["status"] != "waits":
        story.check_answered(end)
