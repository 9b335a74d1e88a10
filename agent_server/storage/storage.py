"""Checkpoints and ledger of one state URL, opened and closed together."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from databricks_supervisor import DeduplicatingSaver, LedgerError, SqlLedger

from ..errors import StateError
from .lakebase import Lakebase
from .postgres import CONNECT_WITHIN_S, postgres_conninfo, postgres_error, require_packages
from .url import is_lakebase, is_sqlite, parse_lakebase, sqlite_file

if TYPE_CHECKING:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

PATIENCE_S = 30.0
POOL_SIZE = 10
"""Connections to Postgres for the checkpoints of a process, at most; the ledger has five of its own."""

_SETUP_LOCK = 4_620_717_337  # Any number that nobody else uses for a Postgres advisory lock.
# No call without a time-out: a database that vanished is noticed within a minute.
_TIMEOUTS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


@dataclass(frozen=True, slots=True)
class Storage:
    """The state of all threads.

    Attributes:
        saver: The checkpoints; each message is stored once.
        ledger: The side effects.
    """

    saver: DeduplicatingSaver
    ledger: SqlLedger


@asynccontextmanager
async def open_storage(url: str) -> AsyncIterator[Storage]:
    """Open the checkpoints and the ledger of a state URL.

    Connections to Postgres are pooled: a broken one is replaced, and what was under way on it is repeated. So a
    restart of the database costs a wait, and nothing fails.

    Args:
        url: As in SUPERVISOR_STATE_URL; see :mod:`agent_server.storage.url`.

    Raises:
        StateError: The database cannot be opened.
    """
    opened: AbstractAsyncContextManager[BaseCheckpointSaver[Any]]
    if is_lakebase(url):
        lakebase = await asyncio.to_thread(Lakebase.find, parse_lakebase(url))
        opened, ledger = _lakebase(lakebase), lakebase.ledger()
    else:
        opened = _sqlite(url) if is_sqlite(url) else _postgres(postgres_conninfo(url))
        ledger = SqlLedger(url)
    async with opened as saver:
        try:
            deduplicating = DeduplicatingSaver(saver, ledger)
            try:
                await deduplicating.setup()
            except LedgerError as error:
                raise StateError(f"SUPERVISOR_STATE_URL: {error}") from None
            yield Storage(deduplicating, ledger)
        finally:
            await ledger.aclose()


def open_ledger(url: str) -> SqlLedger:
    """The ledger of a state URL alone. Blocks for Lakebase, which is asked where the database is.

    Raises:
        StateError: There is no such Lakebase database.
    """
    return Lakebase.find(parse_lakebase(url)).ledger() if is_lakebase(url) else SqlLedger(url)


@asynccontextmanager
async def _sqlite(url: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    import aiosqlite
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    path = await asyncio.to_thread(sqlite_file, url)
    connection = aiosqlite.connect(path, timeout=PATIENCE_S)
    try:
        await connection
    except sqlite3.Error as error:
        raise StateError(f"SUPERVISOR_STATE_URL: {path} cannot be opened: {error}.") from None
    try:
        # The switch to WAL needs the file for itself, and does not wait for it whatever the busy time-out is.
        await _patiently(lambda: connection.execute_fetchall("PRAGMA journal_mode = WAL"), path)
        await connection.execute("PRAGMA synchronous = FULL")
        saver = AsyncSqliteSaver(connection)
        await _patiently(saver.setup, path)
        yield saver
    finally:
        await connection.close()


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
async def _postgres(conninfo: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    require_packages("Postgres", "postgres", "psycopg_pool", "langgraph.checkpoint.postgres")
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    from .retrying_saver import RetryingPostgresSaver

    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.Error as error:
        raise postgres_error(error) from None
    options: dict[str, Any] = {key: value for key, value in _TIMEOUTS.items() if key not in given}
    options |= {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(conninfo, kwargs=options, open=False, **_pool()) as pool:
        saver = RetryingPostgresSaver(pool)
        await _set_up(saver, conninfo)
        yield saver


@asynccontextmanager
async def _lakebase(lakebase: Lakebase) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    # The saver has to be made in the event loop; it asks the workspace, and blocks the loop for that moment.
    async with lakebase.saver(**_pool()) as saver:
        await _set_up(saver, lakebase.conninfo, await asyncio.to_thread(lakebase.password))
        yield saver


def _pool() -> dict[str, Any]:
    """Options of both connection pools: a connection is tried before it is handed out."""
    from psycopg_pool import AsyncConnectionPool

    return {
        "min_size": 1,
        "max_size": POOL_SIZE,
        "timeout": PATIENCE_S,
        "check": AsyncConnectionPool.check_connection,
    }


async def _set_up(saver: AsyncPostgresSaver, conninfo: str, password: str | None = None) -> None:
    """Make the tables, in one process at a time: the one with an advisory lock, on a connection of its own."""
    import psycopg
    from psycopg.rows import dict_row

    more: dict[str, Any] = {} if password is None else {"password": password}
    try:
        connection = await psycopg.AsyncConnection.connect(
            conninfo, autocommit=True, row_factory=dict_row, connect_timeout=CONNECT_WITHIN_S, **more
        )
    except psycopg.Error as error:
        raise postgres_error(error) from None
    async with connection:  # The lock ends with it.
        # Tried again and again, not waited for: an index that is built concurrently waits for all who wait.
        while not await _locked(connection):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        try:
            await saver.setup()
        except psycopg.Error as error:
            raise postgres_error(error) from None
    # By default it uses one connection at a time; the pool has several.
    saver.lock = asyncio.Semaphore(POOL_SIZE)  # type: ignore[assignment]


async def _locked(connection: Any) -> bool:
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS done", (_SETUP_LOCK,))
    row = await cursor.fetchone()
    return bool(row["done"])
