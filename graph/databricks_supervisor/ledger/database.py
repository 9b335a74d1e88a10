"""Threads and connections of a ledger: opened at first use, independent of event loops.

SQL runs on the ledger's own threads, with a small pool of connections for the whole process. So one ledger serves
every event loop (short-lived ones too), cancelling a task does not interrupt a statement, and tools that fill a
loop's default executor cannot delay a record.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from ..errors import LedgerError
from ..redaction import scrub
from .schema import set_up

T = TypeVar("T")

_RETRY_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class DatabaseSpec:
    """The database of a ledger.

    Attributes:
        name: Its name in messages, without credentials.
        dialect: ``"sqlite"`` or ``"postgresql"``.
        connections: Maximum number of connections (and threads) in each process.
        make_engine: Creates the engine, in autocommit. Called on a thread, once in each process.
    """

    name: str
    dialect: str
    connections: int
    make_engine: Callable[[], Engine]


class Database:
    """Runs functions with a connection, on its own threads.

    Args:
        spec: The database.
    """

    def __init__(self, spec: DatabaseSpec) -> None:
        self.spec = spec
        # By process id: neither a connection nor a thread survives a fork. The parent's entries stay unused in
        # the child: closing an inherited connection would end the parent's session.
        self._pools: dict[int, _Pool] = {}
        weakref.finalize(self, _close, self._pools)

    async def run(self, work: Callable[[Connection], T], *, patience: float = 0.0) -> T:
        """Run ``work`` with a connection in autocommit. Cancelling the caller does not interrupt it.

        Args:
            work: The function to run.
            patience: Seconds during which ``work`` is repeated while Postgres cannot be reached: only for work
                that may be done twice.

        Raises:
            LedgerError: The database could not be reached, or refused.
        """
        pool, until = self._pool(), time.monotonic() + patience
        return await asyncio.get_running_loop().run_in_executor(pool.threads, self._work, pool, work, until)

    def run_sync(self, work: Callable[[Connection], T], *, patience: float = 0.0) -> T:
        """As :meth:`run`, for sync callers."""
        pool, until = self._pool(), time.monotonic() + patience
        return pool.threads.submit(self._work, pool, work, until).result()

    async def aclose(self) -> None:
        """Close the connections. The next :meth:`run` opens new ones."""
        pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            await asyncio.get_running_loop().run_in_executor(pool.threads, pool.close)

    def _pool(self) -> _Pool:
        pid = os.getpid()
        # setdefault, not a lock: a lock that another thread holds during a fork stays locked in the child.
        return self._pools.get(pid) or self._pools.setdefault(pid, _Pool(self.spec))

    def _work(self, pool: _Pool, work: Callable[[Connection], T], until: float) -> T:
        while True:
            try:
                with pool.engine().connect() as connection:
                    return work(connection)
            except (SQLAlchemyError, OSError) as error:
                may_pass = isinstance(error, OperationalError) and self.spec.dialect == "postgresql"
                if not may_pass or time.monotonic() > until:
                    raise LedgerError(self._error_text(error)) from error
            time.sleep(_RETRY_INTERVAL_S)

    def _error_text(self, error: Exception) -> str:
        reason = getattr(error, "orig", None) or error
        text = scrub(str(reason).strip().partition("\n")[0])
        if "database is locked" in text:
            text += ": another process holds the lock"
        return (
            f"The ledger {self.spec.name} did not do its work ({type(reason).__name__}: {text}). What it "
            "holds is kept; whether this step was written is not known. Resume the thread once the database "
            "can be used."
        )


class _Pool:
    """Engine and threads of one process."""

    def __init__(self, spec: DatabaseSpec) -> None:
        self.threads = ThreadPoolExecutor(spec.connections, thread_name_prefix="supervisor-ledger")
        self._make_engine = spec.make_engine
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def engine(self) -> Engine:
        """The engine; its first use creates the tables."""
        with self._lock:
            if self._engine is None:
                engine = self._make_engine()
                try:
                    with engine.connect() as connection:
                        set_up(connection)
                except BaseException:
                    engine.dispose()
                    raise
                self._engine = engine
            return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()


def _close(pools: dict[int, _Pool]) -> None:
    pool = pools.pop(os.getpid(), None)
    if pool is not None:
        pool.close()
