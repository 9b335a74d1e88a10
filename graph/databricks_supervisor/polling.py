"""When to poll next: pure functions of what is known, with randomness handed in.

Polling cost and detection lag are two sides of one coin: a delay proportional to the job's age keeps the
lag proportional to its duration, at a number of polls that grows with its logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

SHORTEST_S = 0.3
LONGEST_S = 10.0
LONGEST_RETRY_S = 30.0
NEWS_WINDOW_S = 3.0
LONGEST_SLACK_S = 1 / 32
MANY = 160
SLACK_S = 5e-5
"""Seconds that each wait is worth to the others: a thousand of them may wake 31 ms late, together."""


@dataclass(frozen=True, slots=True)
class PollMoment:
    """What a cadence can depend on.

    Attributes:
        age_s: Seconds since the job was submitted.
        since_news_s: Seconds since something new arrived, or since it was submitted.
        polls: Polls so far.
    """

    age_s: float
    since_news_s: float
    polls: int


Polling = Literal["auto"] | float | Callable[[PollMoment], float]
"""``"auto"``, a fixed number of seconds, or a function of :class:`PollMoment` that returns seconds."""


def next_delay(polling: Polling, moment: PollMoment, random: Callable[[], float]) -> float:
    """Seconds to wait before the next poll.

    Args:
        polling: The cadence.
        moment: What is known now.
        random: Returns a number in [0, 1).

    Example:
        >>> next_delay(2.0, PollMoment(age_s=60, since_news_s=60, polls=9), lambda: 0.5)
        2.0
        >>> round(next_delay("auto", PollMoment(age_s=0, since_news_s=0, polls=0), lambda: 0.5), 2)
        0.3
    """
    if polling == "auto":
        return _clamp(_auto(moment) * (0.9 + 0.2 * random()))
    if callable(polling):
        return max(0.0, float(polling(moment)))
    # A fixed cadence shortens the first wait: many jobs are quick.
    return min(1.0, float(polling)) if moment.polls == 0 else float(polling)


def retry_delay(failures: int, retry_after_s: float | None, random: Callable[[], float]) -> float:
    """Seconds to wait after a failed attempt: what the service asked for, else exponential with jitter.

    Args:
        failures: Failures in a row, at least 1.
        retry_after_s: The service's ``Retry-After``, in seconds.
        random: Returns a number in [0, 1).

    Example:
        >>> retry_delay(1, None, lambda: 0.5), retry_delay(3, 7.0, lambda: 0.5)
        (0.5, 7.0)
    """
    if retry_after_s is not None:
        return max(SHORTEST_S, retry_after_s)
    return float(min(LONGEST_RETRY_S, 0.5 * 2 ** (min(failures, 10) - 1)) * (0.5 + random()))


@dataclass(slots=True)
class Retry:
    """Failures in a row of one thing that is tried again: when to try next, and for how long it has failed.

    Attributes:
        random: Returns a number in [0, 1).
        failures: How many there are.
        waited_s: Seconds of all delays, the next one included.
    """

    random: Callable[[], float]
    failures: int = 0
    waited_s: float = 0.0
    _since: float = 0.0
    _login_refreshed: bool = False

    def failed(self, now: float, retry_after_s: float | None = None) -> float:
        """Count a failure; seconds to wait before the next try.

        Args:
            now: Any clock's seconds, the same one each time.
            retry_after_s: The service's ``Retry-After``, in seconds.

        Example:
            >>> retry = Retry(random=lambda: 0.5)
            >>> [retry.failed(now) for now in (10.0, 11.0, 12.0)], retry.waited_s, retry.failing_for_s(15.0)
            ([0.5, 1.0, 2.0], 3.5, 5.0)
        """
        if not self.failures:
            self._since = now
        self.failures += 1
        delay = retry_delay(self.failures, retry_after_s, self.random)
        self.waited_s += delay
        return delay

    def failing_for_s(self, now: float) -> float:
        """Seconds since the first of the failures; 0 if there is none."""
        return now - self._since if self.failures else 0.0

    def refresh_login(self) -> bool:
        """Whether a refused login may be refreshed: once until something succeeds."""
        first, self._login_refreshed = not self._login_refreshed, True
        return first

    def succeeded(self) -> None:
        """Forget the failures."""
        self.failures, self.waited_s, self._login_refreshed = 0, 0.0, False


def coalesced(seconds: float, now: float, waiting: int) -> float:
    """A wait that ends together with others, where many wait; never earlier than it was to.

    A process that wakes up for one poll at a time runs with cold caches: polls in batches take a fifth to a half
    less CPU (measured; benchmarks/README.md).

    Args:
        seconds: What to wait, in seconds.
        now: Monotonic seconds.
        waiting: How many wait.

    Example:
        >>> coalesced(2.0, now=100.01, waiting=3), round(coalesced(2.0, now=100.01, waiting=1000), 5)
        (2.0, 2.02125)
    """
    if waiting < MANY:
        return seconds
    # A power of two: whoever waits with fewer others wakes up with some of the same.
    slack = min(LONGEST_SLACK_S, 2.0 ** math.floor(math.log2(waiting * SLACK_S)))
    return seconds + -(now + seconds) % slack


class RateBudget:
    """Turns at a steady rate, in the order in which they are asked for.

    When jobs want more polls than there are turns, each waits for its turn after its own delay: all slow down
    by the same time, and none starves.

    Args:
        per_s: Turns a second.
        burst_s: What was not used in so many seconds may be used at once.
    """

    def __init__(self, per_s: float, burst_s: float = 0.25) -> None:
        self._interval_s = 1.0 / per_s
        self._burst_s = burst_s
        self._free_at = float("-inf")

    def wait_s(self, now: float) -> float:
        """Take the next turn; seconds until it comes.

        Args:
            now: Monotonic seconds.

        Example:
            >>> budget = RateBudget(per_s=2, burst_s=0)
            >>> [budget.wait_s(now) for now in (100.0, 100.0, 100.25, 200.0)]
            [0.0, 0.5, 0.75, 0.0]
        """
        turn = max(self._free_at, now - self._burst_s)
        self._free_at = turn + self._interval_s
        return max(0.0, turn - now)


def _auto(moment: PollMoment) -> float:
    if moment.polls == 0:
        return SHORTEST_S
    by_age = 0.6 + 0.024 * max(0.0, moment.age_s - 8.0) if moment.age_s < 60.0 else 0.029 * moment.age_s
    # What comes next often comes soon after what came last.
    return by_age / 2 if moment.since_news_s < NEWS_WINDOW_S and moment.polls > 1 else by_age


def _clamp(delay: float) -> float:
    return min(LONGEST_S, max(SHORTEST_S, delay))
