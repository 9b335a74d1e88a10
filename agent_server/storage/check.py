"""Whether the database of a state URL can be opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from ..errors import StateError
from .lakebase import Lakebase
from .postgres import postgres_conninfo, require_packages, try_connection
from .url import is_lakebase, is_sqlite, parse_lakebase, sqlite_file


def check_state(url: str) -> None:
    """Open the database of a state URL once, and close it again. Blocks for a few seconds at most.

    Raises:
        StateError: It cannot be opened; the message says why, in one line.
    """
    if is_sqlite(url):
        _check_sqlite(sqlite_file(url))
    elif is_lakebase(url):
        lakebase = Lakebase.find(parse_lakebase(url))
        try_connection(lakebase.conninfo, password=lakebase.password())
    else:
        require_packages("Postgres", "postgres", "psycopg_pool")
        try_connection(postgres_conninfo(url))


def _check_sqlite(path: str) -> None:
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        if "locked" not in str(error):  # Locked: somebody writes to it, so it can be opened.
            raise StateError(f"SUPERVISOR_STATE_URL: {path} cannot be opened: {error}.") from None
