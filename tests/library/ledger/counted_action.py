"""An action for :func:`run_once` that counts how often it was begun, and a ledger to run it with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from databricks_supervisor.ledger import Effect, MemoryLedger
from databricks_supervisor.ledger.run_once import Done, Unknown, run_once
from tests.support.ledgers import KEY, Clock, new_turn

OTHER_HOST = "elsewhere/1/1"
LIFETIME_S = 30.0

Outcome = dict[str, Any]


class Refused(Exception):
    """Proof that nothing happened."""


class Action:
    """A side effect that counts.

    Attributes:
        runs: How often it was begun.
        begun: Set when it is.
        go_on: What it waits for.
        ends: Exceptions to end with, in order; after these it succeeds.
    """

    def __init__(self, *ends: BaseException) -> None:
        self.runs, self.ends = 0, list(ends)
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def __call__(self, attempt: int) -> Outcome:
        self.runs += 1
        self.begun.set()
        await self.go_on.wait()
        if self.ends:
            raise self.ends.pop(0)
        return {"response_id": f"job of attempt {attempt}"}


def patiently() -> Action:
    """An action that waits until it may go on."""
    action = Action()
    action.go_on.clear()
    return action


async def opened(clock: Clock | None = None) -> MemoryLedger:
    ledger = MemoryLedger(clock or Clock())
    await ledger.open_turn(new_turn("turn"))
    return ledger


async def do(
    ledger: MemoryLedger, action: Callable[[int], Awaitable[Outcome]], **options: Any
) -> Done | Unknown:
    return await run_once(
        ledger,
        KEY,
        action,
        lifetime_s=LIFETIME_S,
        did_nothing=lambda error: isinstance(error, Refused),
        **options,
    )


class Sleeps(list[float]):
    """How long was slept, in order, although it took no time."""

    def __init__(self) -> None:
        self._more = asyncio.Event()

    def append(self, seconds: float) -> None:
        super().append(seconds)
        self._more.set()

    async def reach(self, count: int) -> None:
        """Wait until there were so many."""
        while len(self) < count:
            self._more.clear()
            await self._more.wait()


async def claimed_by(worker: str, clock: Clock) -> tuple[MemoryLedger, Effect]:
    ledger = await opened(clock)
    return ledger, await ledger.claim(KEY, worker)
