"""The ledger: makes each side effect happen at most once.

Two tables. A *turn* is one question and the work on it until its end; at most one is open per (thread, position).
An *effect* is one side effect of a turn (a submission, a function's run, a decision): one atomic insert claims it,
then it is carried out and its outcome is recorded. A caller that finds it claimed reads the outcome instead of
repeating the effect.

Lives here: :mod:`.protocol` (the interface, re-exported here), :mod:`.run_once` (claim, execute, record),
:mod:`.memory` (in memory, for in-memory checkpoints and tests), :mod:`.sql` (in SQLite or Postgres) with
:mod:`.statements`, :mod:`.schema`, :mod:`.rows`, :mod:`.database` and :mod:`.url`; :mod:`.worker` (process names).

May import: ``errors``, ``redaction``.
"""

from typing import TYPE_CHECKING, Any

from .memory import MemoryLedger
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
    # Imported on first use: the interface alone does not need SQLAlchemy.
    if name == "SqlLedger":
        from .sql import SqlLedger

        return SqlLedger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
