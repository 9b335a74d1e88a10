"""The ledger: what makes each side effect happen once.

Two small tables. A *turn* is one question and everything until its end; at most one is open per
(thread, position). An *effect* is one side effect of a turn (a submission, a function's run, a
decision): it is claimed by one atomic insert, done, and its outcome recorded. Whoever finds it claimed
reads what became of it instead of doing it again.

Lives here: :mod:`.protocol` (the interface, re-exported here), :mod:`.run_once` (claim, do, record), :mod:`.memory`
(in memory, for checkpoints that are in memory, and for tests), :mod:`.sql` (in SQLite or Postgres) with
:mod:`.statements`, :mod:`.schema`, :mod:`.rows`, :mod:`.database` and :mod:`.url`; :mod:`.worker` (who claims).

May import: ``errors``, ``redaction``.
"""

from typing import TYPE_CHECKING, Any

from .protocol import (
    Effect,
    EffectKey,
    EffectKind,
    Ledger,
    NewTurn,
    Turn,
    recorded_decisions,
    response_ids,
)

if TYPE_CHECKING:
    from .memory import MemoryLedger
    from .sql import SqlLedger

__all__ = [
    "Effect",
    "EffectKey",
    "EffectKind",
    "Ledger",
    "MemoryLedger",
    "NewTurn",
    "SqlLedger",
    "Turn",
    "recorded_decisions",
    "response_ids",
]


def __getattr__(name: str) -> Any:
    # Late, so that whoever wants the interface alone does not load SQLAlchemy.
    if name == "SqlLedger":
        from .sql import SqlLedger

        return SqlLedger
    if name == "MemoryLedger":
        from .memory import MemoryLedger

        return MemoryLedger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
