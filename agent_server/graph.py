"""The graph of the app: the library's, with the app's settings, tools and service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from databricks_supervisor import create_supervisor_graph
from databricks_supervisor.errors import ConfigurationError
from databricks_supervisor.ledger import Ledger

from .errors import UsageError
from .settings import AppSettings
from .storage.storage import open_storage
from .tools import demonstration_tools, workspace_tools

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from databricks_supervisor.compiled import CompiledSupervisorGraph, SupervisorGraph

    from .backend.backend import Backend


@asynccontextmanager
async def open_graph(
    settings: AppSettings,
    backend: Backend,
    client_factory: Callable[[str | None], Awaitable[AsyncOpenAI]],
    **more: Any,
) -> AsyncIterator[tuple[CompiledSupervisorGraph, Ledger]]:
    """The compiled graph and its ledger, open while the block runs; arguments as for :func:`build_graph`.

    Raises:
        UsageError: A setting cannot work.
        StateError: The database cannot be opened.
    """
    async with open_storage(settings.state_url) as storage:
        builder = build_graph(settings, storage.ledger, client_factory, local=backend.local, **more)
        yield builder.compile(storage.saver, durability=settings.durability), storage.ledger


def build_graph(
    settings: AppSettings,
    ledger: Ledger,
    client_factory: Callable[[str | None], Awaitable[AsyncOpenAI]],
    *,
    local: bool,
    **more: Any,
) -> SupervisorGraph:
    """The graph, to be compiled with the checkpointer that goes with the ledger.

    Args:
        settings: The app's settings.
        ledger: Where side effects are claimed.
        client_factory: Builds a client of the service.
        local: Whether the service is the local supervisor, which has tools of its own.
        more: More arguments for ``create_supervisor_graph``.

    Raises:
        UsageError: A setting cannot work.
    """
    demonstrates = settings.tools == "demonstration" or (settings.tools == "auto" and local)
    try:
        return create_supervisor_graph(
            model=settings.model,
            instructions=settings.instructions,
            tools=demonstration_tools() if demonstrates else workspace_tools(),
            polling=settings.poll_interval,
            ledger=ledger,
            client_factory=client_factory,
            require_approval=settings.require_approval,
            on_unknown_submission=settings.on_unknown_submission,
            create_timeout_s=settings.create_timeout_s,
            **more,
        )
    except ConfigurationError as error:
        raise UsageError(f"A setting (SUPERVISOR_…) or a tool of agent_server/tools.py: {error}") from None
