"""Short cuts for tests of ledgers: a turn to open, the key of its submission, a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from databricks_supervisor.ledger import EffectKey, Ledger, NewTurn

KEY = EffectKey("turn", 0, "submit")

MakeLedger = Callable[..., Ledger]


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


_numbers = count()


def new_turn(
    turn_id: str | None = None, *, thread: str = "thread", position: str = "", digest: str = "digest"
) -> NewTurn:
    """A turn to open; with an id of its own unless one is given."""
    return NewTurn(turn_id or f"turn-{next(_numbers)}", thread, position, None, digest)
