"""Several processes do the same thing at the same moment: it happens once."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.e2e.conftest import SEED
from tests.e2e.forks import Event, ForkServer
from tests.e2e.stories import Store, Story
from tests.local_supervisor_process import LocalSupervisor

RACES = 50
STORES = ("sqlite", "postgres")
KILLED_AT = ("submit begins", "recorded", "poll begins", "polled")


def numbers(count: int) -> list[int]:
    return sorted(random.Random(f"{SEED} races").sample(range(RACES), count))


@pytest.mark.parametrize("store", STORES)
def test_two_processes_that_resume_a_thread_at_once_share_one_job(
    store: str, forks: ForkServer, service: LocalSupervisor, stores: Callable[[str], Store]
) -> None:
    for number in numbers(4):
        resume_at_once(Story(forks, service, stores(store)), number)


@pytest.mark.full
@pytest.mark.parametrize("store", STORES)
def test_two_processes_that_resume_a_thread_at_once_share_one_job_fifty_times(
    store: str, forks: ForkServer, service: LocalSupervisor, stores: Callable[[str], Store]
) -> None:
    for number in range(RACES):
        resume_at_once(Story(forks, service, stores(store)), number)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("askers", [2, 5])
def test_processes_that_ask_the_same_question_at_once_share_one_job(
    askers: int, store: str, forks: ForkServer, service: LocalSupervisor, stores: Callable[[str], Store]
) -> None:
    ask_at_once(Story(forks, service, stores(store)), askers)


@pytest.mark.full
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("askers", [2, 5])
def test_processes_that_ask_the_same_question_at_once_share_one_job_many_times(
    askers: int, store: str, forks: ForkServer, service: LocalSupervisor, stores: Callable[[str], Store]
) -> None:
    for number in range(RACES // askers):
        ask_at_once(Story(forks, service, stores(store), durability=("sync", "inherit")[number % 2]), askers)


def resume_at_once(story: Story, number: int) -> None:
    killed_at = KILLED_AT[number % len(KILLED_AT)]
    assert story.start(story.again, die_at=[killed_at, 1]).wait() == -9
    ends = at_once(story, None, 2)
    check_one_job(story, ends)


def ask_at_once(story: Story, askers: int) -> None:
    ends = at_once(story, story.again, askers)
    check_one_job(story, ends)


def at_once(story: Story, given: object, processes: int) -> list[Event]:
    """Start so many processes, and let all go at the same moment."""
    runs = [story.start(given, held=True) for _ in range(processes)]
    for run in runs:
        run.go()
    return [run.end() for run in runs]


def check_one_job(story: Story, ends: list[Event]) -> None:
    assert story.submissions == 1
    assert [end["status"] for end in ends] == ["answered"] * len(ends), ends
    story.check_answered(story.run(None))
    assert story.submissions == 1
