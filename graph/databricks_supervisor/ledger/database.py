"""The threads and connections of a ledger: made late, kept few, independent of event loops.

SQL runs on threads of the ledger's own, with a small pool of connections for the whole process. So one
ledger serves every event loop (also short-lived ones, which leave nothing behind), a cancelled task never
cuts a statement in two, and tools that fill a loop's default executor cannot hold up a record.
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

_AGAIN_AFTER_S = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ledger is kept.

    Attributes:
        name: What to call it in messages; holds no credential.
        dialect: ``"sqlite"`` or ``"postgresql"``.
        connections: At most so many connections (and threads) in each process.
        make_engine: Makes the engine, in autocommit. Called on a thread, once in each process.
    """

    name: str
    dialect: str
    connections: int
    make_engine: Callable[[], Engine]


class Database:
    """Runs functions of a connection, on threads of its own.

    Args:
        place: Where the ledger is kept.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        # By process: neither a connection nor a thread survives a fork. The parent's entries stay in the
        # child, unused, because closing an inherited connection would end the parent's session.
        self._open: dict[int, _Open] = {}
        weakref.finalize(self, _close, self._open)

    async def run(self, work: Callable[[Connection], T], *, patience: float = 0.0) -> T:
        """Run ``work`` with a connection in autocommit; when the caller is cancelled, whole or not at all.

        Args:
            work: What to do.
            patience: For so many seconds it is done again while Postgres cannot be reached: for work that may
                be done twice.

        Raises:
            LedgerError: The database could not be reached, or refused.
        """
        opened, until = self._opened(), time.monotonic() + patience
        return await asyncio.get_running_loop().run_in_executor(opened.threads, self._do, opened, work, until)

    def run_sync(self, work: Callable[[Connection], T], *, patience: float = 0.0) -> T:
        """As :meth:`run`, for sync callers."""
        opened, until = self._opened(), time.monotonic() + patience
        return opened.threads.submit(self._do, opened, work, until).result()

    async def aclose(self) -> None:
        """Close the connections. The next :meth:`run` opens new ones."""
        opened = self._open.pop(os.getpid(), None)
        if opened is not None:
            await asyncio.get_running_loop().run_in_executor(opened.threads, opened.close)

    def _opened(self) -> _Open:
        pid = os.getpid()
        # setdefault, not a lock: one that another thread holds during a fork stays locked in the child.
        return self._open.get(pid) or self._open.setdefault(pid, _Open(self.place))

    def _do(self, opened: _Open, work: Callable[[Connection], T], until: float) -> T:
        while True:
            try:
                with opened.engine().connect() as connection:
                    return work(connection)
            except (SQLAlchemyError, OSError) as error:
                away = isinstance(error, OperationalError) and self.place.dialect == "postgresql"
                if not away or time.monotonic() > until:
                    raise LedgerError(self._explain(error)) from error
            time.sleep(_AGAIN_AFTER_S)

    def _explain(self, error: Exception) -> str:
        reason = getattr(error, "orig", None) or error
        text = scrub(str(reason).strip().partition("\n")[0])
        if "database is locked" in text:
            text += ": another process keeps it locked"
        return (
            f"The ledger {self.place.name} did not do its work ({type(reason).__name__}: {text}). What it "
            "holds is kept; whether this step was written is not known. Resume the thread once the database "
            "can be used."
        )


class _Open:
    """Engine and threads of one process."""

    def __init__(self, place: Place) -> None:
        self.threads = ThreadPoolExecutor(place.connections, thread_name_prefix="supervisor-ledger")
        self._make_engine = place.make_engine
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def engine(self) -> Engine:
        """The engine of a database whose tables are there."""
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


def _close(opened: dict[int, _Open]) -> None:
    own = opened.pop(os.getpid(), None)
    if own is not None:
        own.close()
