"""The database of a ledger: a SQLite file, or Postgres by URL or by psycopg's connection string."""

from __future__ import annotations

import functools
import os
import sqlite3
import time
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from ..errors import ConfigurationError
from .database import DatabaseSpec

POSTGRES_CONNECTIONS = 5
"""Maximum connections to Postgres per ledger and process. SQLite has one: it allows one writer."""

SQLITE_PATIENCE = 30.0
"""Seconds to wait for another process that writes to the same SQLite file."""

# Every call has a time-out: an unreachable server must not block a thread for ever.
_POSTGRES_TIMEOUTS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

_ENGINE: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "hide_parameters": True, "max_overflow": 0}

_POSTGRES_ENGINE: dict[str, Any] = {
    **_ENGINE,
    "pool_size": POSTGRES_CONNECTIONS,
    "pool_use_lifo": True,
    "pool_pre_ping": True,  # detects a restarted server before a claim is sent
}


def spec_from_url(url: str | URL) -> DatabaseSpec:
    """The database that a URL names; nothing is opened yet.

    Raises:
        ConfigurationError: Not a URL of SQLite or Postgres, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Not chained: the driver's message quotes the URL, password included.
        raise ConfigurationError(
            "The ledger's URL cannot be read. Write sqlite:///path/to/ledger.db or "
            "postgresql://user:password@host:5432/database (percent-encode special characters)."
        ) from None
    backend, _, driver = parsed.drivername.partition("+")
    if backend == "sqlite" and driver in ("", "pysqlite", "aiosqlite"):
        return _sqlite(parsed)
    if backend in ("postgresql", "postgres") and driver in ("", "psycopg", "psycopg_async"):
        return _postgres(parsed)
    raise ConfigurationError(
        f"The ledger cannot be stored in {parsed.drivername!r}. Use sqlite:///path/to/ledger.db, or "
        "postgresql://… for a ledger that several machines share (its driver is psycopg)."
    )


def _sqlite(url: URL) -> DatabaseSpec:
    file = url.database
    if not file or file == ":memory:" or file.startswith("file:") or url.query:
        raise ConfigurationError(
            "A ledger in SQLite needs a plain file, without options: sqlite:///path/to/ledger.db. "
            "For a ledger in memory, use MemoryLedger."
        )
    if sqlite3.sqlite_version_info < (3, 35):
        raise ConfigurationError(
            f"The ledger needs SQLite 3.35 or newer; this Python has {sqlite3.sqlite_version}. "
            "Use a newer Python, or a ledger in Postgres."
        )

    @functools.cache  # once: the working directory may change
    def path() -> str:
        found = os.path.abspath(file)
        os.makedirs(os.path.dirname(found), exist_ok=True)
        return found

    def make_engine() -> Engine:
        return create_engine(
            "sqlite://",
            creator=lambda: _connect_sqlite(path()),
            poolclass=QueuePool,
            pool_size=1,
            **_ENGINE,
        )

    return DatabaseSpec(f"sqlite:///{file}", "sqlite", 1, make_engine)


def _connect_sqlite(file: str) -> sqlite3.Connection:
    # Another thread may close the connection.
    connection = sqlite3.connect(file, timeout=SQLITE_PATIENCE, check_same_thread=False)
    try:
        deadline = time.monotonic() + SQLITE_PATIENCE
        while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError:
                # The switch to WAL needs exclusive access and ignores the busy time-out.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        # FULL: records survive a power cut. With NORMAL they survive only the death of the process.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _postgres(url: URL) -> DatabaseSpec:
    _require_psycopg()
    shown = URL.create("postgresql", host=url.host, port=url.port, database=url.database)
    engine_url = url.set(drivername="postgresql+psycopg")
    timeouts = {key: value for key, value in _POSTGRES_TIMEOUTS.items() if key not in url.query}

    def make_engine() -> Engine:
        return create_engine(engine_url, connect_args=timeouts, **_POSTGRES_ENGINE)

    return DatabaseSpec(shown.render_as_string(), "postgresql", POSTGRES_CONNECTIONS, make_engine)


def spec_from_psycopg(conninfo: str, **kwargs: Any) -> DatabaseSpec:
    """The database that a psycopg connection string names; nothing is opened yet.

    Raises:
        ConfigurationError: The connection string is invalid, or psycopg is not installed.
    """
    _require_psycopg()
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    # SQLAlchemy sets these two itself; PostgresSaver needs them, so callers may pass them.
    options = {key: value for key, value in kwargs.items() if key not in ("autocommit", "row_factory")}
    try:
        known = conninfo_to_dict(conninfo) | options
    except psycopg.ProgrammingError:
        # Not chained: the driver's message quotes the connection string, password included.
        raise ConfigurationError(
            "The ledger's connection string cannot be read. Write "
            "postgresql://user:password@host:5432/database, or 'host=… dbname=… user=… password=…'."
        ) from None
    options |= {key: value for key, value in _POSTGRES_TIMEOUTS.items() if key not in known}
    password = options.get("password")
    shown = "/".join(str(known[key]) for key in ("host", "dbname") if known.get(key) is not None)

    def connect() -> Any:
        fresh = {"password": password()} if callable(password) else {}
        return psycopg.connect(conninfo, **{**options, **fresh})

    def make_engine() -> Engine:
        return create_engine("postgresql+psycopg://", creator=connect, **_POSTGRES_ENGINE)

    return DatabaseSpec(f"postgresql://{shown}", "postgresql", POSTGRES_CONNECTIONS, make_engine)


def _require_psycopg() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "A ledger in Postgres needs psycopg: pip install 'databricks-supervisor-langgraph[postgres]'"
        ) from error
