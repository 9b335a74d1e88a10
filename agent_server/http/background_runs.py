"""Background runs: this process runs the graph for a turn until its end or its next pause.

A background run outlives the request that started it. One process has at most one run of a turn; if another process
has one too, that wastes polls and does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextvars import Context
from typing import Any, Protocol, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import SupervisorError
from databricks_supervisor.ledger import Turn

from ..threads import ThreadReader, config_of
from .caller import thread_name, thread_user

logger = logging.getLogger(__name__)

MOST_PASSES = 100
MOST_TRACE_IDS = 10_000


class RunObserver(Protocol):
    """Observes one background run, as a tracer does: a callback handler of LangChain that also has what is here.

    Nothing that it raises reaches the run.
    """

    @property
    def trace_id(self) -> str | None:
        """Id of the trace, if there is one."""
        ...

    def end(self, error: BaseException | None) -> None:
        """The run is over."""
        ...


class RunObservers(Protocol):
    """Makes an observer for each background run."""

    def begin(self, turn: Turn, question: Any, *, session: str, user: str) -> RunObserver | None:
        """A run of a turn begins; session is the thread's public name, user its owner (``""`` if it has none)."""
        ...


class BackgroundRun:
    """A run of the graph for one turn.

    Attributes:
        turn: The turn.
        error: Why it stopped before the turn's end, or ``None``.
        observer: Observes it, or ``None``.
        extra_messages: Messages that came with an answer, given to the graph together with it.
        version: One more with every change of the thread.
        recheck: Whether an answer may have been recorded since the run last looked for answers.
    """

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.error: BaseException | None = None
        self.observer: RunObserver | None = None
        self.extra_messages: list[BaseMessage] = []
        self.recheck = False
        self._changed = asyncio.Event()
        self.version = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._task is not None and self._task.done()

    def notify(self) -> None:
        """The thread has changed: wake up everyone who waits for that."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self, seen: int, within_s: float) -> bool:
        """Wait until the version is another one than was seen, or the run is over; whether that happened in time."""
        if self.version == seen and not self.over:
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), within_s)
        return self.version != seen or self.over


class BackgroundRuns:
    """The background runs of this process.

    Args:
        observers: Makes an observer for each run, or ``None``.
    """

    def __init__(
        self, graph: CompiledSupervisorGraph, threads: ThreadReader, observers: RunObservers | None
    ) -> None:
        self._graph = graph
        self._threads = threads
        self._observers = observers
        self._runs: dict[str, BackgroundRun] = {}
        self._trace_ids: dict[str, str] = {}
        self._closing = False

    def get(self, turn_id: str) -> BackgroundRun | None:
        """The run of a turn in this process, unless it is over."""
        run = self._runs.get(turn_id)
        return None if run is None or run.over else run

    def trace_id(self, turn_id: str) -> str | None:
        """Id of the trace of a turn's latest run in this process, if it is traced and not long over."""
        run = self._runs.get(turn_id)
        if run is not None and run.observer is not None and (id := _trace_id(run.observer)) is not None:
            return id
        return self._trace_ids.get(turn_id)

    def start(
        self, turn: Turn, identity: str | None, input: Any = None, *, stored_by_us: bool = False
    ) -> BackgroundRun:
        """Run the graph for a turn, unless it runs in this process already.

        Args:
            turn: The turn.
            identity: Name of the identity to act as.
            input: The graph's input; ``None`` goes on with the thread.
            stored_by_us: Whether the request that gave the input opened the turn, so that nobody else puts the turn's
                question into the state.
        """
        if (known := self.get(turn.turn_id)) is not None:
            known.recheck = True
            return known
        run = BackgroundRun(turn)
        if self._closing:
            run.error = ConnectionAbortedError("The server is shutting down.")
        self._runs[turn.turn_id] = run
        # In an empty context: what a request has put into its own ends with the request.
        work = asyncio.sleep(0) if self._closing else self._run(run, identity, input, stored_by_us)
        run._task = asyncio.create_task(work, name=f"turn {turn.turn_id}", context=Context())
        run._task.add_done_callback(lambda _: self._over(run))
        return run

    async def close(self, within_s: float) -> None:
        """Cancel all runs, and wait so long for what they submit to be recorded. The jobs go on at the service."""
        self._closing = True
        tasks = [run._task for run in self._runs.values() if run._task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

    def _over(self, run: BackgroundRun) -> None:
        if self._runs.get(run.turn.turn_id) is run:
            del self._runs[run.turn.turn_id]
        run.notify()

    async def _run(self, run: BackgroundRun, identity: str | None, input: Any, stored_by_us: bool) -> None:
        observer = self._observe(run, input)
        try:
            # Put into the state twice, a question would begin its turn anew there, if only to find all of it done.
            if not stored_by_us and await self._threads.wait_until_stored(run.turn):
                input = None
            await self._run_graph(run, identity, input, observer)
        except asyncio.CancelledError:
            run.error = ConnectionAbortedError("The server is shutting down.")
            raise
        except Exception as error:
            run.error = error
            log = logger.info if isinstance(error, SupervisorError) else logger.error
            log("event=drive_stopped turn=%s error=%s", run.turn.turn_id, type(error).__name__)
        finally:
            if observer is not None:
                self._remember(run.turn.turn_id, _trace_id(observer))
                with contextlib.suppress(Exception):
                    observer.end(run.error)

    async def _run_graph(
        self, run: BackgroundRun, identity: str | None, input: Any, observer: RunObserver | None
    ) -> None:
        """Run the graph until the turn ends, or waits for somebody who has not answered."""
        config: RunnableConfig = {**config_of(run.turn.thread)}
        if observer is not None:
            config["callbacks"] = [cast(BaseCallbackHandler, observer)]
        context = {"identity": identity}
        for _ in range(MOST_PASSES):
            stream = self._graph.astream(input, config, context=context, stream_mode=["updates", "custom"])
            async with contextlib.aclosing(stream) as chunks:  # type: ignore[type-var]
                async for mode, _chunk in chunks:
                    if mode == "updates":
                        run.notify()
            run.notify()
            input = await self._recorded_answers(run)
            if input is None:
                return

    async def _recorded_answers(self, run: BackgroundRun) -> Command[Any] | None:
        """The answers to what the graph waits for, as the ledger has them; ``None`` if there are none."""
        while True:
            run.recheck = False
            snapshot = await self._threads.read_turn(run.turn)
            if answers := snapshot.resume:
                messages, run.extra_messages = run.extra_messages, []
                return Command(resume=answers, update={"messages": messages} if messages else None)
            if not run.recheck:
                return None

    def _observe(self, run: BackgroundRun, input: Any) -> RunObserver | None:
        if self._observers is None:
            return None
        thread = run.turn.thread
        try:
            run.observer = self._observers.begin(
                run.turn, input, session=thread_name(thread), user=thread_user(thread)
            )
        except Exception as error:  # A tracing error must not fail the job.
            logger.warning("event=not_traced turn=%s reason=%s", run.turn.turn_id, type(error).__name__)
        return run.observer

    def _remember(self, turn_id: str, trace_id: str | None) -> None:
        if trace_id is not None:
            self._trace_ids.pop(turn_id, None)
            self._trace_ids[turn_id] = trace_id
            while len(self._trace_ids) > MOST_TRACE_IDS:
                del self._trace_ids[next(iter(self._trace_ids))]


def _trace_id(observer: RunObserver) -> str | None:
    try:
        return observer.trace_id
    except Exception:
        return None
