"""When to poll next."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_supervisor.schedule import LONGEST_S, SHORTEST_S, PollMoment, next_delay, retry_delay

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
