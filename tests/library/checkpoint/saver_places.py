"""Databases for checkpoints that keep each message once, and what is written to them."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from databricks_supervisor import DeduplicatingSaver, SqlLedger

AT: Any = {"configurable": {"thread_id": "thread", "checkpoint_ns": ""}}


@dataclass(frozen=True)
class Place:
    """Where checkpoints and ledger are kept: a SQLite file, or a Postgres by URL."""

    address: str

    @property
    def is_file(self) -> bool:
        return not self.address.startswith("postgresql")

    def ledger(self) -> SqlLedger:
        return SqlLedger(f"sqlite:///{self.address}" if self.is_file else self.address)

    @asynccontextmanager
    async def plain(self, **options: Any) -> AsyncIterator[BaseCheckpointSaver[Any]]:
        if self.is_file:
            async with AsyncSqliteSaver.from_conn_string(self.address) as saver:
                saver.serde = options.get("serde", saver.serde)
                yield saver
        else:
            async with AsyncPostgresSaver.from_conn_string(self.address, **options) as postgres:
                await postgres.setup()
                yield postgres

    @asynccontextmanager
    async def opened(self, **options: Any) -> AsyncIterator[DeduplicatingSaver]:
        ledger = self.ledger()
        async with self.plain(**options) as saver:
            yield DeduplicatingSaver(saver, ledger)
        await ledger.aclose()

    @contextmanager
    def opened_sync(self) -> Iterator[DeduplicatingSaver]:
        with (SqliteSaver if self.is_file else PostgresSaver).from_conn_string(self.address) as saver:
            saver.setup()
            ledger = self.ledger()
            yield DeduplicatingSaver(saver, ledger)
            asyncio.run(ledger.aclose())

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        if self.is_file:
            with sqlite3.connect(self.address) as connection:
                return connection.execute(statement).fetchall()
        with psycopg.connect(self.address) as connection:
            return connection.execute(statement).fetchall()  # type: ignore[arg-type]

    def kept(self, thread: str = "thread") -> int:
        """How many contents are kept for a thread."""
        found = self.rows(f"SELECT count(*) FROM supervisor_contents WHERE thread = '{thread}'")
        return int(found[0][0])

    def size(self) -> int:
        """Bytes of all rows of checkpoints, their writes and messages (in Postgres as compressed)."""
        measure, names = "sum(pg_column_size(t.*))", ["checkpoints", "checkpoint_blobs", "checkpoint_writes"]
        if self.is_file:
            names = ["checkpoints", "writes"]
        total = 0
        for name in [*names, "supervisor_contents"]:
            if self.is_file:
                columns = [row[1] for row in self.rows(f"PRAGMA table_info({name})")]
                measure = "+".join(f"coalesce(sum(length({column})), 0)" for column in columns)
            if measure:
                total += int(self.rows(f"SELECT {measure} FROM {name} t")[0][0] or 0)
        return total


def conversation(count: int = 10) -> list[BaseMessage]:
    """Messages of about 500 bytes that cannot be compressed."""
    kinds = (HumanMessage, AIMessage)
    return [kinds[number % 2](secrets.token_hex(170), id=f"m{number}") for number in range(count)]


def checkpoint_of(messages: Sequence[BaseMessage], **more: Any) -> Any:
    values = {"messages": list(messages), **more}
    return {
        **empty_checkpoint(),
        "channel_values": values,
        "channel_versions": {name: f"{1:032}.{secrets.randbelow(10**16)}" for name in values},
    }


async def put(saver: BaseCheckpointSaver[Any], checkpoint: Any, at: Any = AT) -> Any:
    return await saver.aput(at, checkpoint, {"step": 1}, checkpoint["channel_versions"])


async def read(saver: BaseCheckpointSaver[Any], at: Any = AT) -> Any:
    found = await saver.aget_tuple(at)
    assert found is not None
    return found.checkpoint["channel_values"]["messages"]


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    delivered: int


Node = Callable[[State], Any]


def graph_of(saver: BaseCheckpointSaver[Any], *nodes: Node, state: Any = State) -> Any:
    """The nodes, one after the other."""
    builder = StateGraph(state)
    names = [f"node{number}" for number, _ in enumerate(nodes)]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=saver)
