"""The ledger's tables, their creation and migration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby

import sqlalchemy as sa

from ..errors import LedgerVersionError

SCHEMA_VERSION = 3
"""Version of the tables that this release reads and writes."""

_SET_UP_LOCK = 0x5355_5056_4C44_4752  # key of the Postgres advisory lock: an arbitrary constant

metadata = sa.MetaData()

turns = sa.Table(
    "supervisor_turns",
    metadata,
    sa.Column("turn_id", sa.Text, primary_key=True),
    sa.Column("thread", sa.Text, nullable=False),
    sa.Column("position", sa.Text, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("step", sa.Integer),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("message_ids", sa.Text, nullable=False),
    sa.Column("identity", sa.Text),
    sa.Column("opened_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("delivered_at", sa.Double),
)
"""One row per turn. ``seq`` counts the turns of a (thread, position)."""

_is_open = turns.c.ended_at.is_(None)
sa.Index(
    "supervisor_turns_one_open",
    turns.c.thread,
    turns.c.position,
    unique=True,
    postgresql_where=_is_open,
    sqlite_where=_is_open,
)
_in_order = sa.Index("supervisor_turns_in_order", turns.c.thread, turns.c.position, turns.c.seq, unique=True)

effects = sa.Table(
    "supervisor_effects",
    metadata,
    # ON DELETE CASCADE: no effect outlives its turn, and none can be claimed while its turn is being deleted.
    sa.Column(
        "turn_id", sa.Text, sa.ForeignKey("supervisor_turns.turn_id", ondelete="CASCADE"), nullable=False
    ),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("worker", sa.Text),
    sa.Column("claimed_at", sa.Double, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("settled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.PrimaryKeyConstraint("turn_id", "round", "kind", "id"),
)
"""One row per effect. ``seq`` is the order of first claims in a turn; ``settled``: the outcome is final.

A row without a worker is a released claim. It stays so that its attempt number is not used again: a late record of
the old attempt must not match a new one.
"""

_by_id = sa.Index("supervisor_effects_by_id", effects.c.id, effects.c.kind)
"""For :meth:`.Ledger.turns_with_effect`."""

ledger_version = sa.Table(
    "supervisor_ledger_version",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)
"""One row: the version of the tables."""


def _number_turns(connection: sa.Connection) -> None:
    """Make ``seq`` unique per (thread, position), in the order in which the turns were opened."""
    connection.exec_driver_sql("DROP INDEX IF EXISTS supervisor_turns_latest")
    order = (turns.c.thread, turns.c.position, turns.c.seq, turns.c.opened_at, turns.c.turn_id)
    rows = connection.execute(sa.select(*order).order_by(*order)).all()
    for _, group in groupby(rows, key=lambda row: row[:2]):
        for number, row in enumerate(group, start=1):
            if row.seq != number:
                connection.execute(sa.update(turns).where(turns.c.turn_id == row.turn_id).values(seq=number))
    _in_order.create(connection)


MIGRATIONS: Mapping[int, Callable[[sa.Connection], None]] = {1: _by_id.create, 2: _number_turns}
"""By version: migrates the tables from that version to the next one."""


def set_up(connection: sa.Connection) -> None:
    """Create or migrate the tables. Several processes may do so at the same time.

    Args:
        connection: A connection in autocommit.

    Raises:
        LedgerVersionError: A newer release created the tables.
    """
    with exclusive(connection):
        # Not CREATE TABLE IF NOT EXISTS: it needs the right to create tables even if there is nothing to do.
        if not sa.inspect(connection).has_table(ledger_version.name):
            metadata.create_all(connection, checkfirst=False)
            connection.execute(sa.insert(ledger_version).values(version=SCHEMA_VERSION))
            return
        found = connection.execute(sa.select(ledger_version.c.version)).scalar_one()
        if found > SCHEMA_VERSION:
            raise LedgerVersionError(
                f"The ledger's tables have version {found}; this release of databricks-supervisor-langgraph "
                f"supports version {SCHEMA_VERSION}. Nothing was read or changed. Upgrade the package here "
                "(every process that shares a ledger needs the newer release), or use another ledger."
            )
        for version in range(found, SCHEMA_VERSION):
            MIGRATIONS[version](connection)
        if found < SCHEMA_VERSION:
            connection.execute(sa.update(ledger_version).values(version=SCHEMA_VERSION))


@contextmanager
def exclusive(connection: sa.Connection) -> Iterator[None]:
    """A transaction that excludes the set-up transactions of other processes."""
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
