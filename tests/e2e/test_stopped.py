"""Ctrl-C or a cancelled task in the middle of the POST: the job's id is kept, and a resume finds it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import SEED
from tests.e2e.forks import Process
from tests.e2e.stories import PACE, Story, in_parallel

TIMES = 50
WAYS = ("Ctrl-C", "cancelled task", "Ctrl-C in invoke", "Ctrl-C in stream")
STORES = ("sqlite", "postgres")

NewStory = Callable[..., Story]


@pytest.mark.parametrize("how", WAYS[:2])
def test_a_run_stopped_during_the_post_keeps_the_job_and_a_resume_finds_it(
    how: str, new_story: NewStory
) -> None:
    number = random.Random(f"{SEED} {how}").randrange(TIMES)
    in_parallel(lambda store: stop(new_story(store), how, number), [(store,) for store in STORES])


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", WAYS)
def test_a_run_stopped_during_the_post_keeps_the_job_fifty_times(how: str, new_story: NewStory) -> None:
    in_parallel(
        lambda number: stop(new_story(STORES[number % 2]), how, number),
        [(number,) for number in range(TIMES)],
    )


def stop(story: Story, how: str, number: int) -> None:
    chance = random.Random(f"{SEED} {how} {number}")
    story.durability = chance.choice(("sync", "inherit"))
    story.behaviour = {**PACE, "duration_s": 1.5, "answer_delay_s": 0.4}
    moment_s = chance.uniform(0, 0.35)
    if how == "cancelled task":
        run = story.start(story.again, cancel_s=moment_s)
    else:
        run = start(story, how)
        assert run.wait_for("posting")
        time.sleep(moment_s)
        run.signal(signal.SIGINT)
    run.wait()
    stopped = run.wait_for("stopped")
    assert stopped is not None, run.events[-3:]
    assert stopped["by"] == ("cancel" if how == "cancelled task" else "KeyboardInterrupt")
    (job,) = story.service.submissions(story.name)["jobs"]
    assert job["connection"] == "answered"
    assert story.ledger() == job["id"]
    story.check_answered(story.resume())
    assert story.submissions == 1


def start(story: Story, how: str) -> Process:
    if how == "Ctrl-C":
        return story.start(story.again)
    return story.start(story.again, "drive_sync", how=how.removeprefix("Ctrl-C in "))


def test_an_impatient_second_ctrl_c_submits_nothing_twice(new_story: NewStory) -> None:
    def check(how: str) -> None:
        story = new_story()
        story.behaviour = {**PACE, "answer_delay_s": 0.6}
        run = start(story, how)
        assert run.wait_for("posting")
        for _ in range(2):
            time.sleep(0.1)
            run.signal(signal.SIGINT)
        run.wait()
        end = story.resume()
        assert story.submissions == 1
        if end["status"] != "waits":
            story.check_answered(end)

    in_parallel(check, [(how,) for how in WAYS if how != "cancelled task"])
