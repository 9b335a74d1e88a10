"""Ctrl-C or a cancelled task in the middle of the POST: the job's id is kept, and a resume finds it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import SEED
from tests.e2e.forked_processes import Process, wait_until
from tests.e2e.scenario import PACE, Scenario, in_parallel

TIMES = 50
WAYS = ("Ctrl-C", "cancelled task", "Ctrl-C in invoke", "Ctrl-C in stream")
STORES = ("sqlite", "postgres")

NewScenario = Callable[..., Scenario]


@pytest.mark.parametrize("how", WAYS[:2])
def test_a_run_stopped_during_the_post_keeps_the_job_and_a_resume_finds_it(
    how: str, new_scenario: NewScenario
) -> None:
    number = random.Random(f"{SEED} {how}").randrange(TIMES)
    in_parallel(lambda store: stop(new_scenario(store), how, number), [(store,) for store in STORES])


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", WAYS)
def test_a_run_stopped_during_the_post_keeps_the_job_fifty_times(how: str, new_scenario: NewScenario) -> None:
    in_parallel(
        lambda number: stop(new_scenario(STORES[number % 2]), how, number),
        [(number,) for number in range(TIMES)],
    )


def stop(scenario: Scenario, how: str, number: int) -> None:
    chance = random.Random(f"{SEED} {how} {number}")
    scenario.durability = chance.choice(("sync", "inherit"))
    scenario.behaviour = {**PACE, "duration_s": 1.5, "answer_delay_s": 0.4}
    moment_s = chance.uniform(0, 0.35)
    if how == "cancelled task":
        run = scenario.start(scenario.again, cancel_s=moment_s)
    else:
        run = start(scenario, how)
        assert run.wait_for("posting")
        time.sleep(moment_s)
        run.signal(signal.SIGINT)
    run.wait()
    stopped = run.wait_for("stopped")
    assert stopped is not None, run.events[-3:]
    assert stopped["by"] == ("cancel" if how == "cancelled task" else "KeyboardInterrupt")
    (job,) = scenario.service.submissions(scenario.name)["jobs"]
    assert job["connection"] == "answered"
    assert scenario.ledger() == job["id"]
    scenario.check_answered(scenario.resume())
    assert scenario.submissions == 1


def start(scenario: Scenario, how: str) -> Process:
    if how == "Ctrl-C":
        return scenario.start(scenario.again)
    return scenario.start(scenario.again, "run_graph_sync", how=how.removeprefix("Ctrl-C in "))


def test_an_impatient_second_ctrl_c_submits_nothing_twice(new_scenario: NewScenario) -> None:
    def check(how: str) -> None:
        scenario = new_scenario()
        scenario.behaviour = {**PACE, "answer_delay_s": 0.6}
        run = start(scenario, how)
        assert run.wait_for("posting")
        wait_until(lambda: scenario.submissions > 0, f"the POST of {scenario.name}")
        for _ in range(2):
            time.sleep(0.1)
            run.signal(signal.SIGINT)
        run.wait()
        end = scenario.resume()
        assert scenario.submissions == 1
        if end["status"] != "waits":
            scenario.check_answered(end)

    in_parallel(check, [(how,) for how in WAYS if how != "cancelled task"])
