"""Shared by both ledgers: outcomes as text, rows as turns and effects, and their errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import TurnEndedError, TurnMismatchError
from .protocol import Effect, EffectKey, NewTurn, Turn


def to_json(value: Any) -> str:
    """Canonical JSON: equal values give equal texts.

    ASCII only: Postgres rejects NUL and lone surrogates in text, and models write both.

    Raises:
        TypeError: Not JSON.
        ValueError: Not JSON (NaN, infinity).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def is_final(outcome: Mapping[str, Any]) -> bool:
    """False for ``{"unknown": ...}``, which a later record of the same attempt replaces."""
    return "unknown" not in outcome


def turn_from_row(row: Mapping[str, Any]) -> Turn:
    """A turn from its row."""
    return Turn(**{**row, "message_ids": tuple(json.loads(row["message_ids"]))})


def effect_from_row(row: Mapping[str, Any], *, mine: bool = False) -> Effect:
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


def is_id_taken(turn: NewTurn, found: Turn) -> bool:
    """Whether the stored turn with the new turn's id has ended or is at another thread or position."""
    return found.ended_at is not None or (found.thread, found.position) != (turn.thread, turn.position)


def prevents_opening(latest: Turn, after: str | None) -> bool:
    """Whether the latest turn is open, or is not the one that the caller has seen as the latest."""
    return latest.ended_at is None or after not in (None, latest.turn_id)


def turn_ended(key: EffectKey) -> TurnEndedError:
    """The error for a claim in a turn that has ended."""
    return TurnEndedError(
        f"Turn {key.turn_id} has ended, or its thread was deleted: its {key.kind} of round {key.round} was not "
        "claimed and nothing was done. Send the message again to start a new turn."
    )


def turn_mismatch(turn: NewTurn, found: Turn) -> TurnMismatchError:
    """The error for a turn id that is taken."""
    reason = "has ended" if found.ended_at is not None else "belongs to another thread or position"
    return TurnMismatchError(
        f"Turn {turn.turn_id} exists already and {reason}. Nothing was opened. Choose another turn_id for a "
        "new question, or leave it out."
    )
