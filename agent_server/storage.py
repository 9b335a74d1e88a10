"""Checkpoints and ledger of one state URL, together: they live and die as one."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from databricks_supervisor import SqlLedger
from databricks_supervisor.errors import scrub

from .errors import StateError

__all__ = ["Storage", "open_saver", "open_storage"]

PATIENCE_S = 30.0
_SETUP_LOCK = 4_620_717_337  # Any number that nobody else uses for a Postgres advisory lock.


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the state of all threads is kept.

    Attributes:
        saver: Checkpoints.
        ledger: Side effects.
    """

    saver: BaseCheckpointSaver[Any]
    ledger: SqlLedger


@asynccontextmanager
async def open_storage(url: str) -> AsyncIterator[Storage]:
    """Open the checkpoints and the ledger of a state URL.

    Args:
        url: ``sqlite:///path`` or ``postgresql://…``, as in SUPERVISOR_STATE_URL.

    Raises:
        StateError: The database cannot be opened.
    """
    async with open_saver(url) as saver:
        ledger = SqlLedger(url)
        try:
            yield Storage(saver, ledger)
        finally:
            await ledger.aclose()


@asynccontextmanager
async def open_saver(url: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """Open the checkpoints of a state URL; see :func:`open_storage`."""
    opened = _sqlite(url) if url.startswith("sqlite") else _postgres(url)
    async with opened as saver:
        yield saver


@asynccontextmanager
async def _sqlite(url: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    import aiosqlite
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    path = await asyncio.to_thread(_sqlite_file, url)
    connection = aiosqlite.connect(path, timeout=PATIENCE_S)
    try:
        await connection
    except sqlite3.Error as error:
        raise StateError(f"SUPERVISOR_STATE_URL: {path} cannot be opened: {error}.") from None
    try:
        # The switch to WAL needs the file alone and does not wait for it, whatever the busy time-out says.
        await _patiently(lambda: connection.execute_fetchall("PRAGMA journal_mode = WAL"), path)
        await connection.execute("PRAGMA synchronous = FULL")
        saver = AsyncSqliteSaver(connection)
        await _patiently(saver.setup, path)
        yield saver
    finally:
        await connection.close()


def _sqlite_file(url: str) -> str:
    path = os.path.abspath(url.partition("://")[2][1:])
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise StateError(f"SUPERVISOR_STATE_URL: {path} cannot be made: {error.strerror}.") from None
    return path


async def _patiently(work: Callable[[], Awaitable[Any]], path: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            await work()
            return
        except sqlite3.Error as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise StateError(f"SUPERVISOR_STATE_URL: {path} cannot be used: {error}.") from None
        await asyncio.sleep(0.02)


@asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    try:
        import psycopg
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
    except ImportError:
        raise StateError(
            "SUPERVISOR_STATE_URL: Postgres needs more packages: uv sync --package supervisor-agent-server "
            "--extra postgres."
        ) from None
    conninfo = "postgresql://" + url.partition("://")[2]
    try:
        connection = await psycopg.AsyncConnection.connect(
            conninfo, autocommit=True, prepare_threshold=0, row_factory=dict_row, connect_timeout=5
        )
    except psycopg.Error as error:
        reason = scrub(str(error).strip().partition("\n")[0])
        raise StateError(f"SUPERVISOR_STATE_URL: the database cannot be opened: {reason}.") from None
    async with connection:
        saver = AsyncPostgresSaver(connection)
        # Tried, not waited for: an index that is built concurrently waits for everybody who waits.
        while not await _locked(connection, "pg_try_advisory_lock"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        try:
            await saver.setup()
        finally:
            await _locked(connection, "pg_advisory_unlock")
        yield saver


async def _locked(connection: Any, function: str) -> bool:
    cursor = await connection.execute(f"SELECT {function}(%s) AS done", (_SETUP_LOCK,))
    row = await cursor.fetchone()
    return bool(row["done"])
