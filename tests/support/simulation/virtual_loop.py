"""An event loop without waiting: nothing runs on threads, and time passes only when it is told to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

START = 1_750_000_000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock stands still until :meth:`jump`.

    What is meant for a thread is run at once, in the loop's own: so the order of everything is the same each
    time. What runs on threads of its own all the same is announced with :attr:`outside`.

    Attributes:
        outside: How many things are under way on other threads, which the loop has to wait for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outside = 0
        self._virtual = START
        self._clock_resolution = 1e-4  # a float of today does not tell nanoseconds apart

    def time(self) -> float:
        """Virtual seconds; also seconds since the epoch, for what is injected."""
        return self._virtual

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run it now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def quiet(self) -> None:
        """Return when nothing can go on any more without time passing (or somebody's permission)."""
        while True:
            await asyncio.sleep(0)
            if self.outside:
                self._let_others_run()
            elif not self._ready:  # type: ignore[attr-defined]
                return

    def _let_others_run(self) -> None:
        time.sleep(0.0001)

    async def jump(self) -> bool:
        """Let time pass until the next thing that was to happen later has happened; False if there is none."""
        times = [handle.when() for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        if not times:
            return False
        self._virtual = max(self._virtual, min(times))
        await self.quiet()
        return True

    async def forward(self, seconds: float) -> None:
        """Let that much time pass, and everything happen that is due by then."""
        until = self._virtual + seconds
        while (due := self._next()) is not None and due <= until:
            await self.jump()
        self._virtual = max(self._virtual, until)

    def _next(self) -> float | None:
        times = [handle.when() for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        return min(times, default=None)
