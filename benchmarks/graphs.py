"""Our side of the benchmarks: the compiled graph, with checkpoints and ledger in one SQLite file."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .service import Service

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from databricks_supervisor.compiled import SupervisorGraph


def graph_of(service: Service, **settings: Any) -> SupervisorGraph:
    """A supervisor graph for the service, with the default client.

    Args:
        service: The service.
        settings: More arguments for ``create_supervisor_graph``.
    """
    from databricks_supervisor import create_supervisor_graph

    logging.getLogger("databricks_supervisor").setLevel(logging.WARNING)
    return create_supervisor_graph(
        model="databricks-claude-sonnet-4-5",
        client_factory=lambda identity: our_client(service.url),
        **settings,
    )


def our_client(url: str) -> AsyncOpenAI:
    """The default client of a supervisor, for a workspace at this address."""
    from databricks.sdk.core import Config

    from databricks_supervisor.client.pool import workspace_client

    return workspace_client(Config(host=url, token="benchmark"))


@asynccontextmanager
async def asking(
    service: Service, folder: Path, **settings: Any
) -> AsyncIterator[Callable[[int], Coroutine[Any, Any, Any]]]:
    """A function that asks a question on the thread with a number, and returns the thread's state.

    Args:
        service: The service.
        folder: Folder of the SQLite file.
        settings: As for :func:`graph_of`.
    """
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async with AsyncSqliteSaver.from_conn_string(str(folder / "threads.sqlite")) as saver:
        await saver.setup()
        graph = graph_of(service, **settings).compile(checkpointer=saver)

        async def ask(number: int) -> Any:
            config: Any = {"configurable": {"thread_id": f"thread-{number}"}}
            return await graph.ainvoke({"messages": [{"role": "user", "content": "How much?"}]}, config)

        yield ask
