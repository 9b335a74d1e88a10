"""Follows a response while it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .background_runs import BackgroundRun, BackgroundRuns
from .errors import api_error_of
from .events import ResponseSnapshot
from .response_reader import ResponseReader
from .responses import ResponseRef

KEEP_ALIVE_S = 10.0
RESTART_AFTER_S = 0.5


async def follow(
    ref: ResponseRef, reader: ResponseReader, runs: BackgroundRuns
) -> AsyncIterator[ResponseSnapshot | None]:
    """The response whenever it may have changed, until its end or its pause; its turn is run here meanwhile.

    Yields:
        The response as it is then; ``None`` when nothing has changed for ``KEEP_ALIVE_S``.

    Raises:
        ApiError: The run has failed. The job is kept.
    """
    last: BackgroundRun | None = None
    while True:
        run = runs.get(ref.turn.turn_id)
        seen = run.version if run is not None else 0
        snapshot = await reader.read(ref)
        yield snapshot
        if snapshot.final:
            return
        if last is not None and last.over and last.error is not None:
            raise api_error_of(last.error)
        if run is None:
            if last is not None:  # It ended and the response did not: another process is running the turn.
                await asyncio.sleep(RESTART_AFTER_S)
            run = runs.start(ref.turn, ref.identity)
            seen = run.version
        last = run
        while not await run.wait_for_change(seen, KEEP_ALIVE_S):
            yield None
