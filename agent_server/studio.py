"""The graph for LangGraph Studio (`langgraph.json`), and where its state is kept.

    uv run langgraph dev

With the checkpointer below a thread survives a kill of the server: without it LangGraph's development server
keeps everything in memory and starts a killed run again from its beginning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from .backend.backend import find_backend
from .graph import build_graph
from .settings import load_settings
from .storage.storage import open_ledger, open_storage

if TYPE_CHECKING:
    from databricks_supervisor.compiled import SupervisorGraph

_settings = load_settings()


def _build() -> SupervisorGraph:
    backend = find_backend(_settings)
    return build_graph(_settings, open_ledger(_settings.state_url), backend.start(), local=backend.local)


@asynccontextmanager
async def checkpointer() -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """The checkpoints, in the database of SUPERVISOR_STATE_URL."""
    async with open_storage(_settings.state_url) as storage:
        saver, delete = storage.saver, storage.saver.adelete_thread

        async def delete_both(thread_id: str) -> None:
            # LangGraph's server deletes checkpoints alone; a ledger that is left would give old answers again.
            await storage.ledger.delete_thread(thread_id)
            await delete(thread_id)

        saver.adelete_thread = delete_both  # type: ignore[method-assign]
        yield saver


graph = _build()
"""The supervisor, to be compiled by LangGraph's server with the checkpointer above."""
