"""Time that passes only when somebody sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from databricks_supervisor.run import Time

MONDAY = 1_750_000_000.0
WEEK_S = 7 * 24 * 3600.0


class FakeTime:
    """A clock that a sleep puts forward without waiting.

    Attributes:
        slept: Every sleep so far, in seconds, in order.
        chance: What ``random`` returns; 0.5 is no jitter.
        on_sleep: Called after each sleep with the seconds, so that a test can change the world meanwhile.
    """

    def __init__(self, start: float = MONDAY) -> None:
        self.start = start
        self.chance = 0.5
        self.slept: list[float] = []
        self.on_sleep: Callable[[float], Awaitable[None] | None] | None = None
        self._now = start

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return self._now - self.start

    def forward(self, seconds: float) -> None:
        """Let time pass without anybody sleeping."""
        self._now += seconds

    def injected(self) -> Time:
        """This clock, as the graph takes it."""
        return Time(now=lambda: self._now, sleep=self._sleep, random=lambda: self.chance)

    async def _sleep(self, seconds: float) -> None:
        assert seconds >= 0, seconds
        self.slept.append(seconds)
        self._now += seconds
        if self.on_sleep is not None:
            meanwhile = self.on_sleep(seconds)
            if meanwhile is not None:
                await meanwhile
        await asyncio.sleep(0)
