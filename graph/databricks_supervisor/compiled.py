"""The seam to LangGraph's engine: a compiled graph whose runs go through :mod:`.entry` first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph._internal._config import ensure_config
from langgraph._internal._constants import CONF, CONFIG_KEY_TASK_ID
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.graph.state import CompiledStateGraph, StateGraph

from .entry import Drive, Entrance, Entry, Parts
from .errors import ConfigurationError
from .ledgers import Ledgers
from .portal import run_sync
from .position import placed
from .resuming import Access

__all__ = ["CompiledSupervisorGraph", "SupervisorGraph"]


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

    async def aenter(self, input: Any, config: RunnableConfig | None = None, *, context: Any = None) -> Entry:
        """Enter a run without driving it: find or open its turn. For a server that tells the turn's id first.

        Args:
            input: As for :meth:`astream`.
            config: As for :meth:`astream`.
            context: As for :meth:`astream`.

        Returns:
            What :meth:`astream` takes as its input, with the same context, in this process.

        Raises:
            InvalidInputError, ThreadBusyError, NothingToResumeError, ConfigurationError: As :meth:`astream`.
        """

        async def drive(config: RunnableConfig) -> None:
            stream: Any = super(CompiledSupervisorGraph, self).astream(
                None, config, context=context, durability=self._durability(saver, None)
            )
            async with aclosing(stream) as chunks:
                async for _ in chunks:
                    pass

        config = self._placed(config)
        saver = self._saver(config)
        access = Access(saver.aget_tuple, saver.aput_writes) if saver is not None else _NO_ACCESS
        entrance = self._entrance(saver, access, drive)
        return await entrance.enter(input, config, ensure_config(self.config, config), context)

    async def astream(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        context: Any = None,
        durability: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """As ``CompiledStateGraph.astream``; takes what :meth:`aenter` returned, too, with more of a config.

        Raises:
            InvalidInputError: There is no question in the input.
            ThreadBusyError: Another question of the thread is under way.
            NothingToResumeError: Nothing is on disk to resume.
            ConfigurationError: The run cannot be safe as it is set up.
        """
        if isinstance(input, Entry):
            entry = replace(input, config=cast(RunnableConfig, {**(config or {}), **input.config}))
        else:
            entry = await self.aenter(input, config, context=context)
        kwargs["durability"] = self._durability(self._saver(entry.config), durability)
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
        entrance = self._entrance(saver, access, drive)
        entry = run_sync(entrance.enter(input, config, ensure_config(self.config, config), context))
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

    def _entrance(self, saver: BaseCheckpointSaver[Any] | None, access: Access, drive: Drive) -> Entrance:
        return Entrance(
            parts=self.parts,
            channels=self.channels,
            checkpointer=self.checkpointer,
            saver=saver,
            access=access,
            stores_first=saver is not None and self.sync_durability,
            drive=drive,
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
