"""Finds the ledger of a checkpointer: both must have the same lifetime.

A ledger that outlives its checkpoints would answer a new question with an old turn; one that is lost before them no
longer knows what was submitted.
"""

from __future__ import annotations

import inspect
import logging
import os
from typing import Any
from weakref import WeakKeyDictionary

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from ..ledger import Ledger
from ..ledger.memory import MemoryLedger
from .saver import DeduplicatingSaver

logger = logging.getLogger(__name__)

DEFAULT_FILE = os.path.join(".supervisor", "ledger.sqlite")
_of_memory: WeakKeyDictionary[Any, MemoryLedger] = WeakKeyDictionary()


class LedgerResolver:
    """Finds the ledger of a checkpointer.

    Args:
        given: The ledger for checkpoints outside of this process's memory. ``None``: the ledger of a
            :class:`DeduplicatingSaver`, else one in the SQLite file or Postgres database of the checkpoints, else
            (another kind of checkpointer) one in ``.supervisor/ledger.sqlite``.
    """

    def __init__(self, given: Ledger | None) -> None:
        self.given = given
        self._by_address: dict[str, Ledger] = {}

    async def resolve(self, saver: BaseCheckpointSaver[Any] | None) -> Ledger:
        """The ledger of a checkpointer (``None``: no checkpointer)."""
        if saver is None:
            return self.given or MemoryLedger()
        inner = saver.inner if isinstance(saver, DeduplicatingSaver) else saver
        if isinstance(inner, InMemorySaver):
            return _memory_ledger(inner)
        if self.given is not None:
            return self.given
        if isinstance(saver, DeduplicatingSaver):
            return saver.ledger
        return await self._in_same_database(saver)

    async def _in_same_database(self, saver: BaseCheckpointSaver[Any]) -> Ledger:
        modules = [kind.__module__ for kind in type(saver).__mro__]
        conn = getattr(saver, "conn", None)
        if any(module.startswith("langgraph.checkpoint.sqlite") for module in modules):
            path = await _sqlite_path(conn)
            return self._sql(f"sqlite:///{path}") if path else _memory_ledger(saver)
        if any(module.startswith("langgraph.checkpoint.postgres") for module in modules):
            conninfo = _postgres_conninfo(conn)
            if conninfo is not None:
                return self._sql(conninfo)
        if DEFAULT_FILE not in self._by_address:
            logger.warning(
                "event=ledger_default path=%s checkpointer=%s: works on one machine only; for several, give "
                "create_supervisor_graph(ledger=SqlLedger(…)) a shared database",
                DEFAULT_FILE,
                type(saver).__name__,
            )
        return self._sql(f"sqlite:///{DEFAULT_FILE}")

    def _sql(self, address: str) -> Ledger:
        from ..ledger.sql import SqlLedger

        if address not in self._by_address:
            self._by_address[address] = (
                SqlLedger(address) if address.startswith("sqlite:") else SqlLedger.from_psycopg(address)
            )
        return self._by_address[address]


def _memory_ledger(saver: BaseCheckpointSaver[Any]) -> Ledger:
    # LangGraph may run on shallow copies of a saver, which share its stack or its lock.
    owner = getattr(saver, "stack", None) or getattr(saver, "lock", None) or saver
    return _of_memory.setdefault(owner, MemoryLedger())


async def _sqlite_path(conn: Any) -> str:
    """Path of the main database; ``""`` if it is in memory."""
    rows = conn.execute("PRAGMA database_list")
    if inspect.isawaitable(rows):
        rows = await rows
    fetched = rows.fetchall()
    if inspect.isawaitable(fetched):
        fetched = await fetched
    return next((str(row[2] or "") for row in fetched if row[1] == "main"), "")


def _postgres_conninfo(conn: Any) -> str | None:
    from psycopg.conninfo import make_conninfo

    pooled = getattr(conn, "conninfo", None)
    if isinstance(pooled, str):
        return pooled
    info = getattr(conn, "info", None)
    return make_conninfo(info.dsn, password=info.password or None) if info is not None else None
