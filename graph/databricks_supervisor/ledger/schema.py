"""The ledger's tables, and how they come to be.

Several processes may meet an empty database at the same time: whoever takes the lock first makes the
tables, the others find them made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    false,
    insert,
    inspect,
    select,
    update,
)

from ..errors import LedgerVersionError

SCHEMA_VERSION = 3
"""Version of the tables that this release reads and writes."""


_SET_UP_LOCK = 0x5355_5056_4C44_4752  # the advisory lock of set-up, a number of this package's own

metadata = MetaData()

turns = Table(
    "supervisor_turns",
    metadata,
    Column("turn_id", Text, primary_key=True),
    Column("thread", Text, nullable=False),
    Column("position", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("step", Integer),
    Column("digest", Text, nullable=False),
    Column("message_ids", Text, nullable=False),
    Column("identity", Text),
    Column("opened_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("delivered_at", Double),
)
"""One row a turn. ``seq`` counts the turns of a (thread, position)."""

_is_open = turns.c.ended_at.is_(None)
Index(
    "supervisor_turns_one_open",
    turns.c.thread,
    turns.c.position,
    unique=True,
    postgresql_where=_is_open,
    sqlite_where=_is_open,
)
_in_order = Index("supervisor_turns_in_order", turns.c.thread, turns.c.position, turns.c.seq, unique=True)

effects = Table(
    "supervisor_effects",
    metadata,
    # The cascade is what fences: no effect outlives its turn, and none is claimed while its turn is deleted.
    Column("turn_id", Text, ForeignKey("supervisor_turns.turn_id", ondelete="CASCADE"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker", Text),
    Column("claimed_at", Double, nullable=False),
    Column("outcome", Text),
    Column("settled", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("turn_id", "round", "kind", "id"),
)
"""One row an effect. ``seq`` is the order of first claims in a turn; ``settled``: the outcome is final.

A row without a worker is a claim that was given back. It stays, so that its attempt number is never used
again: a record of the old attempt that comes late must not match a new one.
"""

_by_id = Index("supervisor_effects_by_id", effects.c.id, effects.c.kind)
"""For an answer that names nothing but what it answers."""

ledger_version = Table(
    "supervisor_ledger_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)
"""One row: the version of the tables."""


def _number_turns(connection: Connection) -> None:
    """Two turns of one place could have one number, which was the order of their opening all the same."""
    connection.exec_driver_sql("DROP INDEX IF EXISTS supervisor_turns_latest")
    order = (turns.c.thread, turns.c.position, turns.c.seq, turns.c.opened_at, turns.c.turn_id)
    rows = connection.execute(select(*order).order_by(*order)).all()
    for _, place in groupby(rows, key=lambda row: row[:2]):
        for number, row in enumerate(place, start=1):
            if row.seq != number:
                connection.execute(update(turns).where(turns.c.turn_id == row.turn_id).values(seq=number))
    _in_order.create(connection)


MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {1: _by_id.create, 2: _number_turns}
"""What brings the tables from the version that is the key to the next one."""


def set_up(connection: Connection) -> None:
    """Make the tables or bring them up to date; safe when several processes do it at the same time.

    Args:
        connection: A connection in autocommit.

    Raises:
        LedgerVersionError: A newer release made the tables.
    """
    with exclusive(connection):
        # Asked first: CREATE TABLE IF NOT EXISTS wants the right to create also where there is nothing to do.
        if not inspect(connection).has_table(ledger_version.name):
            metadata.create_all(connection, checkfirst=False)
            connection.execute(insert(ledger_version).values(version=SCHEMA_VERSION))
            return
        found = connection.execute(select(ledger_version.c.version)).scalar_one()
        if found > SCHEMA_VERSION:
            raise LedgerVersionError(
                f"The ledger's tables have version {found}; this release of databricks-supervisor-langgraph "
                f"knows version {SCHEMA_VERSION}. Nothing was read or changed. Upgrade the package here "
                "(every process that shares a ledger needs the newer release), or use another ledger."
            )
        for version in range(found, SCHEMA_VERSION):
            MIGRATIONS[version](connection)
        if found < SCHEMA_VERSION:
            connection.execute(update(ledger_version).values(version=SCHEMA_VERSION))


@contextmanager
def exclusive(connection: Connection) -> Iterator[None]:
    """A transaction that only one process at a time is in."""
    postgres = connection.dialect.name == "postgresql"
    connection.exec_driver_sql("BEGIN" if postgres else "BEGIN IMMEDIATE")
    try:
        if postgres:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SET_UP_LOCK})")
        yield
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")
