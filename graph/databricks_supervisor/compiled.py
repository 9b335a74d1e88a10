"""The one seam to LangGraph's engine: what happens at the entry of a run, before its input is applied.

A node would be too late for it: by then the question is in the state, and a thread that is busy would be
wedged (LANGGRAPH: Entry, position, cancellation).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from typing import Any, Literal

from langchain_core.messages import BaseMessage, RemoveMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig
from langgraph._internal._config import ensure_config, patch_configurable
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_TASK_ID,
)
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.graph.state import CompiledStateGraph, StateGraph
from langgraph.types import Command
from pydantic import ValidationError

from .busy import make_way
from .clients import Clients
from .context import SupervisorContext
from .errors import (
    ConfigurationError,
    ForeignThreadError,
    InvalidAnswerError,
    InvalidInputError,
    NothingToResumeError,
    SupervisorError,
)
from .ledgers import Ledgers
from .portal import run_sync
from .position import placed, position_of, step_of, task_namespace
from .resuming import Access, address_answer, answer_in_time
from .run import RUN_KEY, Run, Time
from .settings import Settings
from .snapshot import Snapshot, snapshot_of
from .turns import Asked, Busy, Entered, Thread, checked_id, enter, first_job, read_question

__all__ = ["CompiledSupervisorGraph", "Parts", "SupervisorGraph"]

logger = logging.getLogger(__name__)

_STORED_TRIES = 100
_STORED_EVERY_S = 0.01

Drive = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a supervisor is made of, beside its nodes."""

    settings: Settings
    ledgers: Ledgers
    clients: Clients
    time: Time


@dataclass(frozen=True, slots=True)
class _Entry:
    """What LangGraph's engine is given instead of what the caller gave."""

    input: Any
    config: RunnableConfig
    run: Run
    turn_id: str | None

    async def finished(self) -> None:
        """The run ended and its caller has everything: without a saver, only the ledger can know that."""
        if not self.run.resumable and self.turn_id is not None:
            await self.run.ledger.mark_delivered(self.turn_id)


class SupervisorGraph(StateGraph[Any, Any, Any, Any]):
    """What :func:`~databricks_supervisor.create_supervisor_graph` returns; compile it with your checkpointer."""

    parts: Parts

    def compile(
        self,
        checkpointer: Any = None,
        *,
        durability: Literal["sync", "inherit"] = "sync",
        **kwargs: Any,
    ) -> CompiledSupervisorGraph:
        """Compile the graph, as ``StateGraph.compile`` does.

        Args:
            checkpointer: Yours; ``None`` inherits the parent's, as a subgraph should.
            durability: ``"sync"`` writes each checkpoint before the next step, whatever a caller says;
                ``"inherit"`` leaves it to the caller, and once-only to the ledger alone.
            kwargs: As for ``StateGraph.compile``.

        Raises:
            ConfigurationError: ``durability`` is neither.

        Example:
            >>> from databricks_supervisor import create_supervisor_graph
            >>> from langgraph.checkpoint.memory import InMemorySaver
            >>> graph = create_supervisor_graph(model="m").compile(checkpointer=InMemorySaver())
            >>> sorted(name for name in graph.get_graph().nodes if not name.startswith("__"))
            ['approve', 'call_tools', 'poll', 'submit']
        """
        if durability not in ("sync", "inherit"):
            raise ConfigurationError(f"durability must be 'sync' or 'inherit'; got {durability!r}.")
        compiled: Any = super().compile(checkpointer, **{"name": "databricks_supervisor", **kwargs})
        compiled.__class__ = CompiledSupervisorGraph
        compiled.parts = self.parts
        compiled.sync_durability = durability == "sync"
        return compiled  # type: ignore[no-any-return]


class CompiledSupervisorGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """A compiled supervisor: LangGraph's compiled graph, with the ledger at its entry.

    Use it as any compiled graph: ``invoke``, ``ainvoke``, ``stream``, ``astream``, as a node, as a subgraph.
    """

    parts: Parts
    sync_durability: bool

    def __init__(self, *, parts: Parts, sync_durability: bool, **kwargs: Any) -> None:
        # LangGraph copies a compiled graph (`with_config`) by calling its class with its attributes.
        super().__init__(**kwargs)
        self.parts = parts
        self.sync_durability = sync_durability

    async def astream(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        context: Any = None,
        durability: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """As ``CompiledStateGraph.astream``.

        Raises:
            InvalidInputError: There is no question in the input.
            ThreadBusyError: Another question of the thread is under way.
            NothingToResumeError: Nothing is on disk to resume.
            ConfigurationError: The run cannot be safe as it is set up.
        """

        async def drive(config: RunnableConfig) -> None:
            stream: Any = super(CompiledSupervisorGraph, self).astream(
                None, config, context=context, durability=self._durability(saver, durability)
            )
            async with aclosing(stream) as chunks:
                async for _ in chunks:
                    pass

        config = self._placed(config)
        saver = self._saver(config)
        access = Access(saver.aget_tuple, saver.aput_writes) if saver is not None else _NO_ACCESS
        entry = await self._enter(input, config, context, saver, access, drive)
        kwargs["durability"] = self._durability(saver, durability)
        stream: Any = super().astream(entry.input, entry.config, context=context, **kwargs)
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk
        await entry.finished()

    def stream(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        context: Any = None,
        durability: Any = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """As ``CompiledStateGraph.stream``; also from where an event loop is running, as in a notebook.

        Raises:
            InvalidInputError, ThreadBusyError, NothingToResumeError, ConfigurationError: As :meth:`astream`.
        """

        async def drive(config: RunnableConfig) -> None:
            stream: Any = super(CompiledSupervisorGraph, self).stream(
                None, config, context=context, durability=self._durability(saver, durability)
            )
            await asyncio.to_thread(lambda: [None for _ in stream])

        config = self._placed(config)
        saver = self._saver(config)
        access = _sync_access(saver) if saver is not None else _NO_ACCESS
        entry = run_sync(self._enter(input, config, context, saver, access, drive))
        kwargs["durability"] = self._durability(saver, durability)
        stream: Any = super().stream(entry.input, entry.config, context=context, **kwargs)
        with closing(stream) as chunks:
            yield from chunks
        run_sync(entry.finished())

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread: its checkpoints and what the ledger knows of it.

        Raises:
            ConfigurationError: The graph has no checkpointer of its own.
        """
        saver = self._own_saver()
        await (await self.parts.ledgers.of(saver)).delete_thread(thread_id)
        await saver.adelete_thread(thread_id)

    def delete_thread(self, thread_id: str) -> None:
        """As :meth:`adelete_thread`, for sync callers."""
        saver = self._own_saver()
        run_sync(_delete_in_ledger(self.parts.ledgers, saver, thread_id))
        saver.delete_thread(thread_id)

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """Schema of what a caller gives: the question. (The state's other parts are the graph's own.)"""
        schema = super().get_input_jsonschema(config)
        properties = schema.get("properties", {})
        properties.pop("job", None)
        properties["turn_id"] = {
            "title": "Turn Id",
            "type": "string",
            "description": "Optional. Two runs with one turn id are one turn.",
        }
        schema["required"] = ["messages"]
        return schema

    async def _enter(
        self,
        input: Any,
        config: RunnableConfig | None,
        context: Any,
        saver: BaseCheckpointSaver[Any] | None,
        access: Access,
        drive: Callable[[RunnableConfig], Awaitable[None]],
    ) -> _Entry:
        full = ensure_config(self.config, config)
        configurable = full[CONF]
        nested = CONFIG_KEY_TASK_ID in configurable
        run = Run(
            settings=self.parts.settings.with_context(_context_of(context, configurable)),
            ledger=await self.parts.ledgers.of(saver),
            thread=checked_id("thread_id", str(configurable.get("thread_id") or uuid.uuid4())),
            clients=self.parts.clients,
            time=self.parts.time,
            resumable=saver is not None,
        )
        self._refuse_unsafe(run, nested=nested)
        handed_on = patch_configurable(config, {RUN_KEY: run})
        where = _Where(self, full, run.thread, access)
        snapshot = await where.look()
        if snapshot.foreign:
            raise ForeignThreadError(
                f"Thread {run.thread} belongs to another graph. Nothing was changed. Use another thread id."
            )
        if nested:
            handed_on = await address_answer(handed_on, snapshot.asking, run.thread, access)
        resumes = (
            bool(configurable.get(CONFIG_KEY_RESUMING)) and snapshot.exists if nested else not _asks(input)
        )
        if resumes:
            _check_resumable(input, snapshot, run.thread)
            given = input if nested else answer_in_time(input, interrupted=snapshot.interrupted)
            return _Entry(given, handed_on, run, None)
        asked = read_question(_messages_of(input), input.get("turn_id"))

        async def drive_here() -> None:
            await drive(handed_on)

        entered, refusals = await self._find_turn(run, where, asked, drive_here, nested=nested)
        if entered.unfinished and not nested:
            await _settle(drive_here, run.thread)
        if entered.how == "resume":
            if not nested:
                return _Entry(None, handed_on, run, entered.turn.turn_id)
            handed_on = patch_configurable(handed_on, {CONFIG_KEY_RESUMING: True})
        if saver is not None and self.sync_durability:
            stored = replace(run, stored=lambda: where.wait_for(entered.turn.turn_id))
            handed_on = patch_configurable(handed_on, {RUN_KEY: stored})
        given = {"messages": [*refusals, *entered.messages], "job": first_job(entered.turn.turn_id)}
        return _Entry(given, handed_on, run, entered.turn.turn_id)

    async def _find_turn(
        self, run: Run, where: _Where, asked: Asked, drive: Drive, *, nested: bool
    ) -> tuple[Entered, list[BaseMessage]]:
        refusals: list[BaseMessage] = []
        made_way = False
        while True:
            snapshot = await where.look()
            thread = Thread(
                thread=run.thread,
                position=position_of(where.config),
                step=step_of(where.config),
                job=snapshot.job,
                forked=not nested and bool(where.config[CONF].get(CONFIG_KEY_CHECKPOINT_ID)),
                identity=run.settings.identity,
            )
            try:
                entered = await enter(run.ledger, thread, asked)
            except Busy as busy:
                refusals = await make_way(run, busy, snapshot, drive, nested=nested)
                made_way = True
            else:
                # What was just given up is not waited for: the service may go on with it for long.
                return replace(entered, unfinished=entered.unfinished and not made_way), refusals

    def _refuse_unsafe(self, run: Run, *, nested: bool) -> None:
        if nested and self.checkpointer in (True, False) and self.checkpointer is not None:
            raise ConfigurationError(
                f"This supervisor was compiled with checkpointer={self.checkpointer} and runs inside another "
                "graph: parallel branches would share one state (True), or an interrupt would submit again "
                "(False). Compile it with checkpointer=None, so that it inherits the parent's."
            )
        if run.settings.may_ask and not run.resumable:
            raise ConfigurationError(
                "A declared tool may need a person's approval, and no checkpointer is in force to wait for "
                "one. Compile with a checkpointer (or the parent graph, with this one inheriting it), or set "
                'require_approval="never". Nothing was submitted.'
            )

    def _placed(self, config: RunnableConfig | None) -> RunnableConfig:
        given: RunnableConfig = config or {}
        full = ensure_config(self.config, config)
        # Nothing but the configurable: LangGraph merges the rest of the caller's config itself.
        return {**given, CONF: placed(full)[CONF]} if CONFIG_KEY_TASK_ID in full[CONF] else given

    def _saver(self, config: RunnableConfig | None) -> BaseCheckpointSaver[Any] | None:
        return self._resolve_checkpointer(ensure_config(self.config, config))

    def _own_saver(self) -> BaseCheckpointSaver[Any]:
        if not isinstance(self.checkpointer, BaseCheckpointSaver):
            raise ConfigurationError("This graph has no checkpointer of its own to delete a thread from.")
        return self.checkpointer

    def _durability(self, saver: BaseCheckpointSaver[Any] | None, given: Any) -> Any:
        if saver is None:
            return None  # LangGraph's async loop fails on "sync" where there is nothing to write to.
        return "sync" if self.sync_durability else given


class _Where:
    """The place in the thread where a run enters."""

    def __init__(
        self, graph: CompiledSupervisorGraph, config: RunnableConfig, thread: str, access: Access
    ) -> None:
        self.config = config
        self._channels = graph.channels
        self._get_tuple = access.get_tuple
        address: dict[str, Any] = {"thread_id": thread, "checkpoint_ns": task_namespace(config)}
        if not address["checkpoint_ns"] and (id := config[CONF].get(CONFIG_KEY_CHECKPOINT_ID)):
            address[CONFIG_KEY_CHECKPOINT_ID] = id
        self._address: RunnableConfig = {"configurable": address}

    async def look(self) -> Snapshot:
        """What its latest checkpoint says now; or the one that the caller addressed."""
        return snapshot_of(await self._get_tuple(self._address), self._channels)

    async def wait_for(self, turn_id: str) -> None:
        """Wait until a turn's question is on disk; not for ever, as the ledger has the turn in any case.

        LangGraph's ``"sync"`` waits for a checkpoint after each step, and so not for the first one, with the
        input, before the first node runs.
        """
        address = {**self._address[CONF], CONFIG_KEY_CHECKPOINT_ID: None}
        for _ in range(_STORED_TRIES):
            job = snapshot_of(await self._get_tuple({CONF: address}), self._channels).job
            if job is not None and job["turn_id"] == turn_id:
                return
            await asyncio.sleep(_STORED_EVERY_S)
        logger.warning("event=input_not_stored_yet turn=%s", turn_id)


async def _nothing(*_args: Any) -> None:
    return None


_NO_ACCESS = Access(_nothing, _nothing)


def _sync_access(saver: BaseCheckpointSaver[Any]) -> Access:
    async def get_tuple(config: RunnableConfig) -> CheckpointTuple | None:
        return await asyncio.to_thread(saver.get_tuple, config)

    async def put_writes(config: RunnableConfig, writes: list[tuple[str, Any]], task_id: str) -> None:
        await asyncio.to_thread(saver.put_writes, config, writes, task_id)

    return Access(get_tuple, put_writes)


async def _delete_in_ledger(ledgers: Ledgers, saver: BaseCheckpointSaver[Any], thread_id: str) -> None:
    await (await ledgers.of(saver)).delete_thread(thread_id)


async def _settle(drive: Drive, thread: str) -> None:
    """Bring the end of the turn before into the state: the process died between the ledger and the state."""
    try:
        await drive()
    except SupervisorError as error:
        logger.info("event=settled_failure thread=%s reason=%s", thread, error)


def _asks(input: Any) -> bool:
    return input is not None and not isinstance(input, Command)


def _check_resumable(input: Any, snapshot: Snapshot, thread: str) -> None:
    if isinstance(input, Command) and input.resume is None and not (input.update or input.goto):
        raise InvalidAnswerError(
            "Command(resume=None) is no answer. Nothing was approved; it is still pending."
        )
    if not snapshot.exists:
        raise NothingToResumeError(
            f"Thread {thread} has nothing to resume: no checkpoint was written for it. "
            "Ask the question again: if its job was submitted, it is found and not submitted again."
        )


def _messages_of(input: Any) -> list[BaseMessage]:
    if not isinstance(input, Mapping) or not input.get("messages"):
        given = sorted(input) if isinstance(input, Mapping) else type(input).__name__
        raise InvalidInputError(
            'The input has no messages: give {"messages": [{"role": "user", "content": "…"}]} '
            f"(got {given}). A parent graph shares its conversation under the key 'messages'. "
            "Nothing was submitted."
        )
    given = input["messages"]
    try:
        messages = convert_to_messages(given if isinstance(given, list | tuple) else [given])
    except Exception as error:
        raise InvalidInputError(f"The messages cannot be read: {error} Nothing was submitted.") from None
    return [message for message in messages if not isinstance(message, RemoveMessage)]


def _context_of(context: Any, configurable: Mapping[str, Any]) -> SupervisorContext | None:
    if context is None:
        runtime = configurable.get(CONFIG_KEY_RUNTIME)
        context = getattr(runtime, "context", None)
        return context if isinstance(context, SupervisorContext) else None
    if isinstance(context, SupervisorContext):
        return context
    try:
        return SupervisorContext.model_validate(context)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ConfigurationError(f"context.{where}: {problem['msg']}. Nothing was submitted.") from None
