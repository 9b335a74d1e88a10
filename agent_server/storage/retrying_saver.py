"""Checkpoints in Postgres, repeated if the connection is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg_pool import PoolTimeout

T = TypeVar("T")
PATIENCE_S = 30.0
_LOST = ("08", "57P")  # Connection exceptions; the server is shutting down, crashed, or not up yet.


class RetryingPostgresSaver(AsyncPostgresSaver):
    """Repeats what was under way when the connection was lost, for 30 seconds.

    A pool replaces broken connections before it hands them out; this is for those that break in use. It is safe to
    repeat: the methods read, or write rows that have the same keys the second time.
    """

    async def aget_tuple(self, *args: Any, **kwargs: Any) -> Any:
        """As :class:`AsyncPostgresSaver`, like the others."""
        return await _repeat_if_lost(super().aget_tuple, *args, **kwargs)

    async def aput(self, *args: Any, **kwargs: Any) -> Any:
        return await _repeat_if_lost(super().aput, *args, **kwargs)

    async def aput_writes(self, *args: Any, **kwargs: Any) -> None:
        await _repeat_if_lost(super().aput_writes, *args, **kwargs)

    async def adelete_thread(self, *args: Any, **kwargs: Any) -> None:
        await _repeat_if_lost(super().adelete_thread, *args, **kwargs)


async def _repeat_if_lost(work: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await work(*args, **kwargs)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            lost = error.sqlstate is None or error.sqlstate.startswith(_LOST)
            if isinstance(error, PoolTimeout) or not lost or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)
