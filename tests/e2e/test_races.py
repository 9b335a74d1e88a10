"""Several processes do the same thing at the same moment: it happens once."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.e2e.conftest import SEED
from tests.e2e.scenario import Scenario, in_parallel

RACES = 50
STORES = ("sqlite", "postgres")
KILLED_AT = ("submit begins", "recorded", "poll begins", "polled")

NewScenario = Callable[..., Scenario]


def test_two_processes_that_resume_a_thread_at_once_share_one_job(new_scenario: NewScenario) -> None:
    chance = random.Random(f"{SEED} races")
    numbers = chance.sample(range(RACES), 4)
    in_parallel(
        lambda store, number: resume_at_once(new_scenario(store), number),
        [(store, number) for store in STORES for number in numbers],
    )


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", STORES)
def test_two_processes_that_resume_a_thread_at_once_share_one_job_fifty_times(
    store: str, new_scenario: NewScenario
) -> None:
    in_parallel(
        lambda number: resume_at_once(new_scenario(store), number), [(number,) for number in range(RACES)]
    )


def test_processes_that_ask_the_same_question_at_once_share_one_job(new_scenario: NewScenario) -> None:
    in_parallel(
        lambda store, askers: ask_at_once(new_scenario(store), askers),
        [(store, askers) for store in STORES for askers in (2, 5)],
    )


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("askers", [2, 5])
@pytest.mark.parametrize("store", STORES)
def test_processes_that_ask_the_same_question_at_once_share_one_job_many_times(
    askers: int, store: str, new_scenario: NewScenario
) -> None:
    in_parallel(
        lambda _, durability: ask_at_once(new_scenario(store, durability), askers),
        [(number, ("sync", "inherit")[number % 2]) for number in range(RACES // askers)],
    )


def resume_at_once(scenario: Scenario, number: int) -> None:
    killed_at = KILLED_AT[number % len(KILLED_AT)]
    assert scenario.start(scenario.again, die_at=[killed_at, 1]).wait() == -9
    check_at_once(scenario, None, 2)


def ask_at_once(scenario: Scenario, askers: int) -> None:
    check_at_once(scenario, scenario.again, askers)


def check_at_once(scenario: Scenario, given: object, processes: int) -> None:
    """Start so many processes, let all go at the same moment: all have the answer of one job."""
    runs = [scenario.start(given, held=True) for _ in range(processes)]
    for run in runs:
        run.go()
    ends = [run.end() for run in runs]
    assert [end.get("error") for end in ends] == [None] * processes
    assert scenario.submissions == 1
    (job,) = scenario.service.submissions(scenario.name)["jobs"]
    for end in ends:
        # Its own result; the thread's state may be that of another one which is not so far yet.
        scenario.check_messages(end["own"], job["id"])
    scenario.check_answered(scenario.run("look"))
