"""The compiled graph: LangGraph's, with :func:`.entry.prepare.prepare_run` before each run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.graph.state import CompiledStateGraph, StateGraph

from .checkpoint.ledger_resolver import LedgerResolver
from .entry.langgraph_internals import CONF, CONFIG_KEY_TASK_ID, ensure_config
from .entry.position import with_own_namespace
from .entry.prepare import Compiled, ContinueThread, Parts, PreparedRun, prepare_run
from .entry.resume import CheckpointAccess
from .entry.sync import run_sync
from .errors import ConfigurationError


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

    async def aprepare(
        self, input: Any, config: RunnableConfig | None = None, *, context: Any = None
    ) -> PreparedRun:
        """Find or open the turn of an input, without running it: for a server that returns the turn's id first.

        Args:
            input: As for :meth:`astream`.
            config: As for :meth:`astream`.
            context: As for :meth:`astream`.

        Returns:
            What :meth:`astream` takes as its input, with the same context, in this process.

        Raises:
            InvalidInputError, ThreadBusyError, NothingToResumeError, ConfigurationError: As :meth:`astream`.
        """

        async def continue_thread(config: RunnableConfig) -> None:
            stream: Any = super(CompiledSupervisorGraph, self).astream(
                None, config, context=context, durability=self._durability(saver, None)
            )
            async with aclosing(stream) as chunks:
                async for _ in chunks:
                    pass

        config = self._with_own_namespace(config)
        saver = self._saver(config)
        return await self._prepare(_async_access(saver), input, config, context, continue_thread)

    async def astream(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        context: Any = None,
        durability: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """As ``CompiledStateGraph.astream``; takes what :meth:`aprepare` returned, too, with more of a config.

        Raises:
            InvalidInputError: There is no question in the input.
            ThreadBusyError: Another question of the thread is under way.
            NothingToResumeError: Nothing is on disk to resume.
            ConfigurationError: The run cannot be safe as it is set up.
        """
        if isinstance(input, PreparedRun):
            prepared = replace(input, config=cast(RunnableConfig, {**(config or {}), **input.config}))
        else:
            prepared = await self.aprepare(input, config, context=context)
        kwargs["durability"] = self._durability(self._saver(prepared.config), durability)
        stream: Any = super().astream(prepared.input, prepared.config, context=context, **kwargs)
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk
        await prepared.mark_delivered()

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

        async def continue_thread(config: RunnableConfig) -> None:
            stream: Any = super(CompiledSupervisorGraph, self).stream(
                None, config, context=context, durability=self._durability(saver, durability)
            )
            await asyncio.to_thread(lambda: [None for _ in stream])

        config = self._with_own_namespace(config)
        saver = self._saver(config)
        prepared = run_sync(self._prepare(_sync_access(saver), input, config, context, continue_thread))
        kwargs["durability"] = self._durability(saver, durability)
        stream: Any = super().stream(prepared.input, prepared.config, context=context, **kwargs)
        with closing(stream) as chunks:
            yield from chunks
        run_sync(prepared.mark_delivered())

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread: its checkpoints and what the ledger knows of it.

        Raises:
            ConfigurationError: The graph has no checkpointer of its own.
        """
        saver = self._own_saver()
        await (await self.parts.ledgers.resolve(saver)).delete_thread(thread_id)
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
        properties["tools"] = {
            "title": "Tools",
            "type": "array",
            "items": {"type": "object"},
            "description": "Optional. Schemas of functions that the caller runs itself.",
        }
        properties["turn_id"] = {
            "title": "Turn Id",
            "type": "string",
            "description": "Optional. Two runs with one turn id are one turn.",
        }
        schema["required"] = ["messages"]
        return schema

    async def _prepare(
        self,
        access: CheckpointAccess,
        input: Any,
        config: RunnableConfig,
        context: Any,
        continue_thread: ContinueThread,
    ) -> PreparedRun:
        graph = Compiled(
            parts=self.parts,
            channels=self.channels,
            checkpointer=self.checkpointer,
            access=access,
            stores_first=access.saver is not None and self.sync_durability,
        )
        full_config = ensure_config(self.config, config)
        return await prepare_run(graph, input, config, full_config, context, continue_thread)

    def _with_own_namespace(self, config: RunnableConfig | None) -> RunnableConfig:
        given: RunnableConfig = config or {}
        full = ensure_config(self.config, config)
        # Nothing but the configurable: LangGraph merges the rest of the caller's config itself.
        return {**given, CONF: with_own_namespace(full)[CONF]} if CONFIG_KEY_TASK_ID in full[CONF] else given

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


async def _nothing(*_args: Any) -> None:
    return None


def _async_access(saver: BaseCheckpointSaver[Any] | None) -> CheckpointAccess:
    if saver is None:
        return CheckpointAccess(None, _nothing, _nothing)
    return CheckpointAccess(saver, saver.aget_tuple, saver.aput_writes)


def _sync_access(saver: BaseCheckpointSaver[Any] | None) -> CheckpointAccess:
    if saver is None:
        return CheckpointAccess(None, _nothing, _nothing)

    async def get_tuple(config: RunnableConfig) -> CheckpointTuple | None:
        return await asyncio.to_thread(saver.get_tuple, config)

    async def put_writes(config: RunnableConfig, writes: list[tuple[str, Any]], task_id: str) -> None:
        await asyncio.to_thread(saver.put_writes, config, writes, task_id)

    return CheckpointAccess(saver, get_tuple, put_writes)


async def _delete_in_ledger(ledgers: LedgerResolver, saver: BaseCheckpointSaver[Any], thread_id: str) -> None:
    await (await ledgers.resolve(saver)).delete_thread(thread_id)
