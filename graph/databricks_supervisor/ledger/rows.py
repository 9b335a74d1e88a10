"""What the two ledgers have in common: outcomes as text, rows as turns and effects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import TurnEndedError, TurnMismatchError
from . import Effect, EffectKey, NewTurn, Turn


def dump(value: Any) -> str:
    """JSON in one form only, so that equal values are equal texts.

    Pure ASCII, because Postgres' text takes neither a NUL nor half a surrogate pair, and models write both.

    Raises:
        TypeError: Not JSON.
        ValueError: Not JSON (NaN, infinity).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def is_final(outcome: Mapping[str, Any]) -> bool:
    """False for ``{"unknown": ...}``: it gives way to a later record of the same attempt."""
    return "unknown" not in outcome


def turn_of(row: Mapping[str, Any]) -> Turn:
    """A turn from its row."""
    return Turn(**{**row, "message_ids": tuple(json.loads(row["message_ids"]))})


def effect_of(row: Mapping[str, Any], *, mine: bool = False) -> Effect:
    """An effect from its row."""
    return Effect(
        key=EffectKey(row["turn_id"], row["round"], row["kind"], row["id"]),
        attempt=row["attempt"],
        worker=row["worker"],
        claimed_at=row["claimed_at"],
        age=max(0.0, row["age"]),
        outcome=None if row["outcome"] is None else json.loads(row["outcome"]),
        mine=mine,
    )


def clash(turn: NewTurn, found: Turn) -> bool:
    """Whether the turn of that id cannot be the one that is to be opened: it is elsewhere, or has ended."""
    return found.ended_at is not None or (found.thread, found.position) != (turn.thread, turn.position)


def is_in_the_way(latest: Turn, after: str | None) -> bool:
    """Whether no turn can be opened, as the latest one is open or was not seen."""
    return latest.ended_at is None or after not in (None, latest.turn_id)


def turn_ended(key: EffectKey) -> TurnEndedError:
    """The error for a claim that came too late."""
    return TurnEndedError(
        f"Turn {key.turn_id} is over, or its thread was deleted: its {key.kind} of round {key.round} was not "
        "claimed and nothing was done. Send the message again to start a new turn."
    )


def turn_mismatch(turn: NewTurn, found: Turn) -> TurnMismatchError:
    """The error for a turn id that is taken."""
    what = "has ended" if found.ended_at is not None else "belongs to another thread or position"
    return TurnMismatchError(
        f"Turn {turn.turn_id} exists already and {what}. Nothing was opened. Choose another turn_id for a "
        "new question, or leave it out."
    )
