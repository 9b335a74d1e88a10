"""Fixtures of the library's tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from databricks_supervisor.client import poll_transport
from databricks_supervisor.entry import sync


@pytest.fixture(autouse=True)
def connections_of_sync_callers_are_closed() -> Iterator[None]:
    """Close the connections that polls left open on the loop of sync callers, as ``asyncio.run`` does at its end.

    That loop outlives the test. A session that is still open when it is collected prints a complaint.
    """
    yield
    if (loop := sync._portals.get(os.getpid())) is not None:
        asyncio.run_coroutine_threadsafe(_close_pools(loop), loop).result()


async def _close_pools(loop: asyncio.AbstractEventLoop) -> None:
    opened = list(loop._asyncgens)  # type: ignore[attr-defined]
    for generator in opened:
        if generator.ag_code is poll_transport._pool.__code__:
            await generator.aclose()
