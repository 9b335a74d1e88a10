"""The ``auto`` cadence against the published one, over 20,000 jobs, on a simulated clock.

Durations are log-normal (median 20 s, sigma 1.2), at most 30 minutes. A poll takes no time, so the lag comes from the
cadence alone; CPU is the number of polls times the cost of a poll (``python -m benchmarks polls``).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from statistics import fmean

from databricks_supervisor.polling import PollMoment, next_delay

from .measure import Row
from .polls import cost_ms
from .published import FIRST_S, INTERVAL_S

JOBS = 20_000
MEDIAN_S, SIGMA, CAP_S = 20.0, 1.2, 1800.0
SEED = 20


def rows() -> list[Row]:
    """Lag of short and of long jobs, polls, and CPU."""
    chance = random.Random(SEED)
    durations = [min(CAP_S, chance.lognormvariate(math.log(MEDIAN_S), SIGMA)) for _ in range(JOBS)]
    ours = [_until(duration, _auto(chance)) for duration in durations]
    published = [_until(duration, _published()) for duration in durations]
    short = [index for index, duration in enumerate(durations) if duration < 10]
    long = [index for index, duration in enumerate(durations) if duration > 60]

    def lag(jobs: list[tuple[float, int]]) -> float:
        return fmean(jobs[index][0] for index in short)

    def share(jobs: list[tuple[float, int]]) -> float:
        return 100 * fmean(jobs[index][0] / durations[index] for index in long)

    polls, their_polls = (fmean(polls for _, polls in jobs) for jobs in (ours, published))
    cpu, their_cpu = polls * cost_ms("ours", 0), their_polls * cost_ms("published", 0)
    short_lag, long_lag = lag(ours), share(ours)
    return [
        Row(
            "cadence",
            "auto: mean lag, jobs < 10 s",
            "s",
            short_lag,
            "≤ 0.35 s",
            short_lag <= 0.35,
            lag(published),
        ),
        Row(
            "cadence",
            "auto: mean lag, jobs > 60 s",
            "% of duration",
            long_lag,
            "≤ 1.5 %",
            long_lag <= 1.5,
            share(published),
        ),
        Row.against("cadence", "auto: polls of a job", "polls", polls, their_polls, 2.0),
        Row.against("cadence", "auto: CPU of a job's polls", "ms", cpu, their_cpu, 1 / 2),
    ]


def _until(duration_s: float, delays: Iterator[float]) -> tuple[float, int]:
    """Lag in seconds and number of polls of a job."""
    age_s, polls = 0.0, 0
    while age_s < duration_s or not polls:
        age_s += next(delays)
        polls += 1
    return age_s - duration_s, polls


def _auto(chance: random.Random) -> Iterator[float]:
    age_s, polls = 0.0, 0
    while True:
        moment = PollMoment(age_s=age_s, since_news_s=age_s, polls=polls)
        delay = next_delay("auto", moment, chance.random)
        yield delay
        age_s, polls = age_s + delay, polls + 1


def _published() -> Iterator[float]:
    yield FIRST_S
    while True:
        yield INTERVAL_S
