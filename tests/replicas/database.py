"""What is in the servers' database, read past them."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import Any

import psycopg
from psycopg import sql

from tests.replicas.responses_client import PATIENCE_S


class Database:
    """A database of the servers.

    Args:
        url: As in SUPERVISOR_STATE_URL.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def turns(self) -> dict[str, bool]:
        """Every turn, and whether it has ended."""
        found = self._rows("SELECT turn_id, ended_at FROM supervisor_turns")
        return {str(turn_id): ended_at is not None for turn_id, ended_at in found}

    def submissions(self, id: str) -> int:
        """How many jobs the ledger knows of for the turn of a public id."""
        query = "SELECT turn_id, outcome FROM supervisor_effects WHERE kind = 'submit'"
        return sum(
            turn == turn_of(id) and "response_id" in (outcome or "") for turn, outcome in self._rows(query)
        )

    def decided(self, approval_id: str) -> bool:
        """Whether a decision on a request was recorded."""
        query = "SELECT id, outcome FROM supervisor_effects WHERE kind = 'decision'"
        return any(id == approval_id and outcome for id, outcome in self._rows(query))

    def wait_ended(self, id: str) -> None:
        """Wait until the turn of a public id has ended; nobody is asked for it."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.turns()[turn_of(id)]:
            assert time.monotonic() < deadline, f"nobody carried {id} to its end"
            time.sleep(0.1)

    def everything(self) -> bytes:
        """The values of all rows of all tables of a Postgres, one after the other."""
        found: list[bytes] = []
        with psycopg.connect(self._url, autocommit=True) as connection:
            tables = connection.execute(
                "SELECT table_schema, table_name FROM information_schema.tables "
                "WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
            ).fetchall()
            assert tables
            for schema, table in tables:
                query = sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, table))
                for row in connection.execute(query):
                    found += [value if isinstance(value, bytes) else str(value).encode() for value in row]
        return b"\n".join(found)

    def _rows(self, query: str) -> list[Any]:
        if not self._url.startswith("sqlite"):
            with psycopg.connect(self._url, autocommit=True) as connection:
                return connection.execute(query.encode()).fetchall()
        with closing(sqlite3.connect(self._url.partition(":///")[2], timeout=30)) as file:
            return file.execute(query).fetchall()


def turn_of(id: str) -> str:
    """The turn of a public id."""
    return id.removeprefix("resp_").rpartition("_")[0]
