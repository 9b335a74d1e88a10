"""When to poll next."""

from __future__ import annotations

import heapq
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_supervisor.polling import (
    LONGEST_S,
    LONGEST_SLACK_S,
    MANY,
    SHORTEST_S,
    PollMoment,
    RateBudget,
    Retry,
    coalesced,
    next_delay,
    retry_delay,
)

ages = st.floats(0, 7 * 24 * 3600)
chances = st.floats(0, 1, exclude_max=True)
moments = st.builds(PollMoment, age_s=ages, since_news_s=ages, polls=st.integers(0, 10_000))


def quiet(age_s: float, polls: int = 5) -> PollMoment:
    """A moment at which nothing new has come for long."""
    return PollMoment(age_s=age_s, since_news_s=max(age_s, 3.0), polls=polls)


def auto(moment: PollMoment, chance: float = 0.5) -> float:
    return next_delay("auto", moment, lambda: chance)


# ---- auto


@settings(deadline=None)
@given(moments, chances)
def test_auto_stays_within_its_bounds(moment: PollMoment, chance: float) -> None:
    assert SHORTEST_S <= auto(moment, chance) <= LONGEST_S


@settings(deadline=None)
@given(moments, chances)
def test_jitter_is_a_tenth_either_way(moment: PollMoment, chance: float) -> None:
    middle = auto(moment)
    assert middle * 0.9 - 1e-9 <= auto(moment, chance) <= middle * 1.1 + 1e-9


@settings(deadline=None)
@given(ages, ages)
def test_an_older_job_is_not_polled_noticeably_more_often(one: float, other: float) -> None:
    younger, older = sorted([one, other])
    assert auto(quiet(older)) >= auto(quiet(younger)) * 0.9


@settings(deadline=None)
@given(st.floats(60, 300))
def test_the_delay_is_a_thirtieth_of_the_age_of_the_job(age_s: float) -> None:
    assert 0.028 * age_s <= auto(quiet(age_s)) <= 0.031 * age_s


def test_the_first_poll_is_quick_and_the_last_ones_are_slow() -> None:
    assert auto(PollMoment(age_s=0, since_news_s=0, polls=0)) == SHORTEST_S
    assert auto(quiet(1800)) == LONGEST_S


@settings(deadline=None)
@given(ages)
def test_news_makes_it_quicker(age_s: float) -> None:
    fresh = PollMoment(age_s=age_s, since_news_s=0.1, polls=5)
    assert auto(fresh) <= auto(quiet(age_s))


def test_a_job_of_half_an_hour_costs_few_polls() -> None:
    age_s, polls = 0.0, 0
    while age_s < 1800:
        age_s += auto(quiet(age_s, polls))
        polls += 1
    assert 200 < polls < 300


@settings(deadline=None)
@given(st.floats(0, 1800))
def test_the_end_of_a_job_is_seen_soon_for_its_age(end_s: float) -> None:
    age_s, polls = 0.0, 0
    while age_s < end_s:
        age_s += auto(quiet(age_s, polls))
        polls += 1
    assert age_s - end_s <= 0.6 + 0.03 * end_s


# ---- fixed


@settings(deadline=None)
@given(st.floats(0.001, 3600), moments, chances)
def test_a_fixed_cadence_is_fixed(seconds: float, moment: PollMoment, chance: float) -> None:
    delay = next_delay(seconds, moment, lambda: chance)
    assert delay == (min(1.0, seconds) if moment.polls == 0 else seconds)


@pytest.mark.parametrize("seconds", [2, 10, 30])
def test_the_usual_cadences(seconds: int) -> None:
    assert next_delay(seconds, quiet(60), lambda: 0.9) == seconds


# ---- a function


@settings(deadline=None)
@given(moments)
def test_a_function_decides_from_what_is_known(moment: PollMoment) -> None:
    asked: list[PollMoment] = []

    def cadence(given: PollMoment) -> float:
        asked.append(given)
        return 42.5

    assert next_delay(cadence, moment, lambda: 0.5) == 42.5
    assert asked == [moment]


@pytest.mark.parametrize(("said", "delay"), [(0, 0.0), (-5, 0.0), (3, 3.0), (1000, 1000.0)])
def test_a_function_may_say_any_number_and_below_zero_is_zero(said: float, delay: float) -> None:
    assert next_delay(lambda _: said, quiet(60), lambda: 0.5) == delay


# ---- after a failure


@settings(deadline=None)
@given(st.integers(1, 100), st.floats(0, 3600), chances)
def test_what_the_service_asks_for_is_obeyed(failures: int, seconds: float, chance: float) -> None:
    assert retry_delay(failures, seconds, lambda: chance) == max(SHORTEST_S, seconds)


@settings(deadline=None)
@given(st.integers(1, 1000), chances)
def test_without_a_word_of_the_service_it_backs_off_within_bounds(failures: int, chance: float) -> None:
    assert 0.25 <= retry_delay(failures, None, lambda: chance) <= 45.0


@settings(deadline=None)
@given(st.integers(1, 100))
def test_backing_off_never_gets_quicker(failures: int) -> None:
    now, next_ = (retry_delay(n, None, lambda: 0.5) for n in (failures, failures + 1))
    assert next_ == min(30.0, 2 * now)


@settings(deadline=None)
@given(st.integers(1, 100))
def test_those_who_fail_together_do_not_come_back_together(failures: int) -> None:
    early, late = retry_delay(failures, None, lambda: 0.0), retry_delay(failures, None, lambda: 0.999)
    assert late > 2.5 * early


# ---- the budget


def polls_of(delays: list[float], per_s: float, seconds: float) -> list[list[float]]:
    """When each job is polled, if each wants its next poll so long after its last one."""
    budget, polled = RateBudget(per_s), [list[float]() for _ in delays]
    wanted = [(delay, job) for job, delay in enumerate(delays)]
    heapq.heapify(wanted)
    while wanted:
        now, job = heapq.heappop(wanted)
        if now > seconds:
            break
        at = now + budget.wait_s(now)
        polled[job].append(at)
        heapq.heappush(wanted, (at + delays[job], job))
    return polled


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=200), st.floats(0.1, 1000))
def test_turns_come_in_the_order_in_which_they_are_asked_for_and_never_faster(
    pauses: list[float], per_s: float
) -> None:
    budget, now, turns = RateBudget(per_s, burst_s=0), 0.0, list[float]()
    for pause in pauses:
        now += pause
        turns.append(now + budget.wait_s(now))
    assert all(later - earlier >= 1 / per_s - 1e-6 for earlier, later in itertools.pairwise(turns))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.3, 10), min_size=1, max_size=30))
def test_where_there_is_enough_nobody_waits_for_long(delays: list[float]) -> None:
    wanted = sum(1 / delay for delay in delays)
    for delay, polled in zip(
        delays, polls_of(delays, per_s=4 * len(delays) + 4 * wanted, seconds=60), strict=True
    ):
        late = [at - before - delay for before, at in itertools.pairwise(polled)]
        assert all(wait < 1.0 for wait in late)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.3, 3), st.integers(2, 60))
def test_when_there_is_not_enough_jobs_alike_get_the_same(delay: float, jobs: int) -> None:
    polled = polls_of([delay] * jobs, per_s=jobs / delay / 3, seconds=100)
    counts = [len(times) for times in polled]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 100 / (3 * delay) * 0.8 - 2, "a third of what they want"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.3, 10), min_size=2, max_size=60), st.floats(0.5, 5))
def test_when_there_is_not_enough_all_wait_for_about_as_long_and_none_starves(
    delays: list[float], per_s: float
) -> None:
    longest_line_s = len(delays) / per_s
    for delay, polled in zip(delays, polls_of(delays, per_s, seconds=200), strict=True):
        waits = [at - before - delay for before, at in itertools.pairwise(polled)]
        assert all(-1e-6 <= wait <= longest_line_s + 1e-6 for wait in waits)


def test_what_was_not_used_for_long_is_not_saved_up() -> None:
    budget = RateBudget(8, burst_s=0.5)
    budget.wait_s(0.0)
    at_once = [wait for wait in (budget.wait_s(1000.0) for _ in range(20)) if wait == 0.0]
    assert len(at_once) == 5


# ---- waits that end together

delays = st.floats(0, 600)
clocks = st.floats(0, 1e7)


@settings(deadline=None)
@given(delays, clocks, st.integers(0, MANY - 1))
def test_where_few_wait_nobody_waits_for_others(delay: float, now: float, waiting: int) -> None:
    assert coalesced(delay, now, waiting) == delay


@settings(deadline=None)
@given(delays, clocks, st.integers(MANY, 100_000))
def test_a_wait_never_ends_early_and_hardly_late(delay: float, now: float, waiting: int) -> None:
    assert delay <= coalesced(delay, now, waiting) <= delay + LONGEST_SLACK_S


@pytest.mark.parametrize("waiting", [1000, 10_000])
def test_thousands_of_waits_end_in_batches(waiting: int) -> None:
    starts = [1000 + 2.0 * number / waiting for number in range(waiting)]
    ends = {round(start + coalesced(2.0, start, waiting), 6) for start in starts}
    assert len(ends) <= 2.0 / LONGEST_SLACK_S + 1


@settings(deadline=None)
@given(delays, clocks, st.integers(MANY, 100_000), st.integers(MANY, 100_000))
def test_those_who_wait_with_fewer_others_still_meet_some(
    delay: float, now: float, one: int, other: int
) -> None:
    fewer, more = sorted((one, other))
    assert coalesced(delay, now, fewer) <= coalesced(delay, now, more) + 1e-9


# ---- retries


def test_failures_in_a_row_wait_longer_each_time_until_something_succeeds() -> None:
    retry = Retry(random=lambda: 0.5)
    assert [retry.failed(now) for now in (10.0, 10.5, 11.5)] == [0.5, 1.0, 2.0]
    assert (retry.failures, retry.waited_s, retry.failing_for_s(15.0)) == (3, 3.5, 5.0)
    retry.succeeded()
    assert (retry.failures, retry.waited_s, retry.failing_for_s(20.0)) == (0, 0.0, 0.0)
    assert retry.failed(20.0) == 0.5


def test_a_service_that_says_how_long_to_wait_is_obeyed() -> None:
    assert Retry(random=lambda: 0.5).failed(0.0, 7.0) == 7.0


def test_a_login_is_refreshed_once_until_something_succeeds() -> None:
    retry = Retry(random=lambda: 0.5)
    assert [retry.refresh_login() for _ in range(3)] == [True, False, False]
    retry.failed(0.0)
    assert not retry.refresh_login()
    retry.succeeded()
    assert retry.refresh_login()
