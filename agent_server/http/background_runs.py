"""BackgroundRuns: the runs of this process that bring turns to their end, whoever is listening.

A drive belongs to no request: when its client goes away it goes on. One process has one drive of a turn at most; that
another process may have one too is wasteful and harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from contextvars import Context
from typing import Any, Protocol

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import SupervisorError
from databricks_supervisor.ledger import Turn

from ..threads import ThreadReader, config_of

logger = logging.getLogger(__name__)

MOST_PASSES = 100
STORED_TRIES = 40
STORED_EVERY_S = 0.05
MOST_TRACE_IDS = 10_000


class RunObserver(Protocol):
    """Watches one drive, as a tracer does. Nothing that it raises reaches the drive."""

    @property
    def trace_id(self) -> str | None:
        """Id of the trace, if there is one."""
        ...

    @property
    def handler(self) -> BaseCallbackHandler | None:
        """Told what the graph does."""
        ...

    def end(self, error: BaseException | None) -> None:
        """The drive is over."""
        ...


class RunObservers(Protocol):
    """Begins to watch drives."""

    def begin(self, turn: Turn, question: Any) -> RunObserver | None:
        """A drive of a turn begins."""
        ...


class BackgroundRun:
    """One turn on its way to its end, or to a person.

    Attributes:
        error: Why it stopped before, or ``None``.
        watch: Watches it, or ``None``.
    """

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.error: BaseException | None = None
        self.watch: RunObserver | None = None
        self.more: list[BaseMessage] = []
        self.poked = False
        self._changed = asyncio.Event()
        self._version = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether it runs no more."""
        return self._task is not None and self._task.done()

    @property
    def version(self) -> int:
        """Counts what happened."""
        return self._version

    def touch(self) -> None:
        """Something happened."""
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def news(self, seen: int, within_s: float) -> bool:
        """Wait until more has happened than was seen, or it is over.

        Returns:
            Whether anything has.
        """
        if self._version == seen and not self.over:
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), within_s)
        return self._version != seen or self.over


class BackgroundRuns:
    """The drives of this process.

    Args:
        graph: The compiled graph.
        threads: Reads threads.
        watcher: Watches drives, or ``None``.
    """

    def __init__(
        self, graph: CompiledSupervisorGraph, threads: ThreadReader, watcher: RunObservers | None
    ) -> None:
        self._graph = graph
        self._threads = threads
        self._watcher = watcher
        self._drives: dict[str, BackgroundRun] = {}
        self._trace_ids: dict[str, str] = {}
        self._closing = False

    def get(self, turn_id: str) -> BackgroundRun | None:
        """The drive of a turn that is under way here."""
        drive = self._drives.get(turn_id)
        return None if drive is None or drive.over else drive

    def trace_id(self, turn_id: str) -> str | None:
        """Id of the trace of a turn's latest drive in this process, if it is traced and not long over."""
        drive = self._drives.get(turn_id)
        if drive is not None and drive.watch is not None and (id := _trace_id(drive.watch)) is not None:
            return id
        return self._trace_ids.get(turn_id)

    def start(
        self, turn: Turn, identity: str | None, given: Any = None, *, opens: bool = False
    ) -> BackgroundRun:
        """Drive a turn, unless it is driven here already.

        Args:
            turn: The turn.
            identity: Name of the identity to act as.
            given: What the graph is given; ``None`` goes on with the thread.
            opens: Whether the turn was opened with what is given, so that nobody else has put it into the state.
        """
        if (known := self.get(turn.turn_id)) is not None:
            known.poked = True
            return known
        drive = BackgroundRun(turn)
        if self._closing:
            drive.error = ConnectionAbortedError("The server is shutting down.")
        self._drives[turn.turn_id] = drive
        # In a context of its own: what a request's context holds ends with the request.
        work = self._nothing() if self._closing else self._run(drive, identity, given, opens)
        drive._task = asyncio.create_task(work, name=f"drive {turn.turn_id}", context=Context())
        drive._task.add_done_callback(lambda _: self._over(drive))
        return drive

    async def close(self, within_s: float) -> None:
        """Detach from every job: cancel all drives, and wait until what they submit is recorded.

        Args:
            within_s: How long to wait, in seconds.
        """
        self._closing = True
        tasks = [drive._task for drive in self._drives.values() if drive._task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

    def _over(self, drive: BackgroundRun) -> None:
        if self._drives.get(drive.turn.turn_id) is drive:
            del self._drives[drive.turn.turn_id]
        drive.touch()

    async def _nothing(self) -> None:
        return None

    async def _run(self, drive: BackgroundRun, identity: str | None, given: Any, opens: bool) -> None:
        watch = self._begin_watch(drive, given)
        try:
            if not opens and await self._is_stored(drive.turn):
                given = None
            await self._passes(drive, identity, given, watch)
        except asyncio.CancelledError:
            drive.error = ConnectionAbortedError("The server is shutting down.")
            raise
        except Exception as error:
            drive.error = error
            log = logger.info if isinstance(error, SupervisorError) else logger.error
            log("event=drive_stopped turn=%s error=%s", drive.turn.turn_id, type(error).__name__)
        finally:
            if watch is not None:
                self._remember(drive.turn.turn_id, _trace_id(watch))
                with contextlib.suppress(Exception):
                    watch.end(drive.error)

    async def _is_stored(self, turn: Turn) -> bool:
        """Wait until whoever opened a turn has put its question into the state, unless that takes too long.

        Put there again, the turn would begin anew in the state, if only to find all of itself in the ledger.
        """
        for _ in range(STORED_TRIES):
            if (await self._threads.look_at_turn(turn)).job is not None:
                return True
            await asyncio.sleep(STORED_EVERY_S)
        return False

    async def _passes(
        self, drive: BackgroundRun, identity: str | None, given: Any, watch: RunObserver | None
    ) -> None:
        """Run the graph until the turn ends, or waits for somebody who has not answered."""
        config: RunnableConfig = {**config_of(drive.turn.thread)}
        if watch is not None and watch.handler is not None:
            config["callbacks"] = [watch.handler]
        context: Mapping[str, Any] = {"identity": identity}
        for _ in range(MOST_PASSES):
            stream = self._graph.astream(given, config, context=context, stream_mode=["updates", "custom"])
            async with contextlib.aclosing(stream) as chunks:  # type: ignore[type-var]
                async for mode, _chunk in chunks:
                    if mode == "updates":
                        drive.touch()
            drive.touch()
            given = await self._answers(drive)
            if given is None:
                return

    async def _answers(self, drive: BackgroundRun) -> Command[Any] | None:
        """The answers to what waits now, as the ledger has them; ``None`` if nothing more was answered."""
        while True:
            drive.poked = False
            look = await self._threads.look_at_turn(drive.turn)
            if answered := look.answered:
                more, drive.more = drive.more, []
                return Command(resume=answered, update={"messages": more} if more else None)
            if not drive.poked:
                return None

    def _begin_watch(self, drive: BackgroundRun, given: Any) -> RunObserver | None:
        if self._watcher is None:
            return None
        try:
            drive.watch = self._watcher.begin(drive.turn, given)
        except Exception as error:  # Nothing that only watches may hurt a job.
            logger.warning("event=not_traced turn=%s reason=%s", drive.turn.turn_id, type(error).__name__)
        return drive.watch

    def _remember(self, turn_id: str, trace_id: str | None) -> None:
        if trace_id is not None:
            self._trace_ids.pop(turn_id, None)
            self._trace_ids[turn_id] = trace_id
            while len(self._trace_ids) > MOST_TRACE_IDS:
                del self._trace_ids[next(iter(self._trace_ids))]


def _trace_id(watch: RunObserver) -> str | None:
    try:
        return watch.trace_id
    except Exception:
        return None
