"""Bytes that a turn writes on a thread of 500 messages, and that a job writes, by number of polls and items.

Counted are the rows in the store: checkpoints, their writes and blobs, and the ledger's tables.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from .graphs import graph_of
from .measure import Row
from .service import serving

MESSAGES, MESSAGE_BYTES = 500, 200
SUPERSTEPS = 4
JOB_S = 3.0

Size = Callable[[], int]


def rows() -> list[Row]:
    """Bytes of a turn and of a job."""
    return asyncio.run(_rows())


async def _rows() -> list[Row]:
    found = []
    ours, plain = await _turn(_sqlite, ours=True), await _turn(_sqlite, ours=False)
    name = f"a turn on {MESSAGES} messages"
    target = "≤ 1/4 of add_messages"
    found.append(Row("checkpoints", f"SQLite, {name}", "KB", ours, target, ours <= plain / 4, plain))
    ours, plain = await _turn(_postgres, ours=True), await _turn(_postgres, ours=False)
    found.append(Row("checkpoints", f"Postgres, {name}", "KB", ours, "≤ 64 KB", ours <= 64, plain))
    few, many = await _job(polling=1.0, items=1), await _job(polling=0.05, items=1)
    target = f"= at a twentieth of the polls ({few:.1f} KB)"
    found.append(
        Row("checkpoints", "SQLite, a job polled 60 times", "KB", many, target, abs(many - few) < 0.1 * few)
    )
    ten, twenty, forty = [await _job(polling=1.0, items=items) for items in (10, 20, 40)]
    growth = (forty - twenty) / (2 * (twenty - ten))
    found.append(
        Row(
            "checkpoints",
            "a further item, among 40 against 20",
            "times",
            growth,
            "≤ 1.1 times",
            growth <= 1.1,
        )
    )
    return found


async def _turn(store: Any, *, ours: bool) -> float:
    """KB that one turn adds."""
    history: Any = [
        {
            "role": ("user", "assistant")[number % 2],
            "content": f"{number} ".ljust(MESSAGE_BYTES, "x"),
            "id": f"m{number}",
        }
        for number in range(MESSAGES)
    ]
    config: Any = {"configurable": {"thread_id": "thread"}}
    question: Any = {"messages": [{"role": "user", "content": "How much?"}]}
    with serving(items=0, duration_s=0.2) as service:
        async with store(ours=ours) as (saver, size):
            graph: Any = graph_of(service, polling=0.2).compile(saver) if ours else _plain().compile(saver)
            await graph.aupdate_state(config, {"messages": history})
            before = size()
            await graph.ainvoke(question, config, durability="sync")
            added = size() - before
    return float(added / 1000)


async def _job(*, polling: float, items: int) -> float:
    """KB that a job writes on a new thread."""
    config: Any = {"configurable": {"thread_id": "thread"}}
    with serving(items=items, duration_s=JOB_S) as service:
        async with _sqlite(ours=True) as (saver, size):
            graph = graph_of(service, polling=polling).compile(saver)
            await graph.ainvoke({"messages": [{"role": "user", "content": "How much?"}]}, config)
            written = size()
    return float(written / 1000)


class State(TypedDict):
    """State of a plain graph."""

    messages: Annotated[list[AnyMessage], add_messages]
    job: dict[str, Any]


def _plain() -> Any:
    """A graph with ``SUPERSTEPS`` supersteps, the last of which answers, with LangGraph's own ``add_messages``."""

    def node(step: int) -> Callable[[State], dict[str, Any]]:
        def run(state: State) -> dict[str, Any]:
            answer = [AIMessage("word " * 160, id=str(uuid.uuid4()))] if step == SUPERSTEPS - 1 else []
            return {"messages": answer, "job": {"step": step}}

        return run

    graph: Any = StateGraph(State)
    names = [START, *(f"step {number}" for number in range(SUPERSTEPS))]
    for number, name in enumerate(names[1:]):
        graph.add_node(name, node(number))
        graph.add_edge(names[number], name)
    return graph


@asynccontextmanager
async def _sqlite(*, ours: bool) -> AsyncIterator[tuple[Any, Size]]:
    """A checkpointer on a SQLite file, and the bytes in the file's rows."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    from databricks_supervisor import DeduplicatingSaver, SqlLedger

    def size() -> int:
        with closing(sqlite3.connect(path)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            return sum(_bytes(connection.execute(f'SELECT * FROM "{table}"')) for (table,) in tables)

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/threads.sqlite"
        async with AsyncSqliteSaver.from_conn_string(path) as saver, AsyncExitStack() as stack:
            await saver.setup()
            if ours:
                ledger = SqlLedger(f"sqlite:///{path}")
                stack.push_async_callback(ledger.aclose)
                yield DeduplicatingSaver(saver, ledger), size
            else:
                yield saver, size


@asynccontextmanager
async def _postgres(*, ours: bool) -> AsyncIterator[tuple[Any, Size]]:
    """The same on a new Postgres server."""
    import psycopg
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    from databricks_supervisor import DeduplicatingSaver, SqlLedger
    from tests.support.postgres import PostgresServer

    def size() -> int:
        with psycopg.connect(url) as connection:
            tables = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            ).fetchall()
            names = [psycopg.sql.Identifier(table) for (table,) in tables]
            return sum(
                _bytes(connection.execute(psycopg.sql.SQL("SELECT * FROM {}").format(n))) for n in names
            )

    with PostgresServer() as server, server.database() as url:
        async with AsyncPostgresSaver.from_conn_string(url) as saver, AsyncExitStack() as stack:
            await saver.setup()
            if ours:
                ledger = SqlLedger.from_psycopg(url)
                stack.push_async_callback(ledger.aclose)
                yield DeduplicatingSaver(saver, ledger), size
            else:
                yield saver, size


def _bytes(rows: Iterable[Sequence[Any]]) -> int:
    return sum(len(v if isinstance(v, bytes) else str(v)) for row in rows for v in row if v is not None)
