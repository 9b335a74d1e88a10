"""Legs: what one public id names, from a request to the end of its turn or to the next pause.

A turn pauses when it asks a person. The answer, recorded in the ledger, is what begins the next leg; so the legs
of a turn, and which of its messages belong to which, follow from the ledger and the thread's state alone, and every
process computes the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from databricks_supervisor.items import Item, items_from_message
from databricks_supervisor.ledger import Effect

_ID = re.compile(r"resp_(?P<turn>[\w-]{1,200})_(?P<leg>0|[1-9]\d{0,3})", re.ASCII)
_REPEAT = re.compile(r"repeat_(?P<attempt>\d+)_(?P<call>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pause:
    """A question to a person that somebody has answered, at least in part.

    Attributes:
        position: Where in the turn it is: everything before is the leg's that it ends.
        key: What makes answers part of the same pause.
        answered_at: When the first answer was recorded, in seconds since the epoch.
        asked: Approval requests that no item of the job stands for.
    """

    position: int
    key: tuple[str, int]
    answered_at: float
    asked: tuple[Item, ...] = ()


def public_id(turn_id: str, index: int) -> str:
    """The public id of a turn's ``index``-th leg, 0-based.

    Example:
        >>> parse_public_id(public_id("4f1c", 2))
        ('4f1c', 2)
    """
    return f"resp_{turn_id}_{index}"


def parse_public_id(id: str) -> tuple[str, int] | None:
    """The turn and the leg's index that a public id names; ``None`` if it is none."""
    found = _ID.fullmatch(id)
    return (found["turn"], int(found["leg"])) if found else None


def rounds_of(effects: Iterable[Effect]) -> dict[int, str]:
    """Ids of a turn's jobs at the service, by round."""
    return {
        effect.key.round: str((effect.outcome or {})["response_id"])
        for effect in effects
        if effect.key.kind == "submit" and "response_id" in (effect.outcome or {})
    }


def pauses_of(effects: Iterable[Effect]) -> list[Pause]:
    """The pauses of a turn that people have answered, in order."""
    pauses: dict[tuple[str, int], Pause] = {}
    for effect in effects:
        outcome = effect.outcome or {}
        if effect.key.kind != "decision" or outcome.get("by") != "person":
            continue
        round_, asked = effect.key.round, outcome.get("asked")
        if asked is None:
            key, position = ("approval", round_), 2 * round_ + 1
        elif found := _REPEAT.fullmatch(effect.key.id):
            key, position = (f"repeat_{found['attempt']}", round_), 2 * round_ + 1
        else:
            key, position = (effect.key.id, round_), 2 * round_
        synthetic = () if asked is None else (synthetic_request(_plain_id(effect.key.id), asked),)
        known = pauses.get(key)
        pauses[key] = Pause(
            position=position,
            key=key,
            answered_at=min(effect.claimed_at, known.answered_at if known else effect.claimed_at),
            asked=(*(known.asked if known else ()), *synthetic),
        )
    return list(pauses.values())


def synthetic_request(id: str, asked: dict[str, Any]) -> Item:
    """The approval request that stands for a question of the graph itself.

    Args:
        id: What it is answered by.
        asked: ``name`` and ``args`` of what is asked about.
    """
    return {
        "type": "mcp_approval_request",
        "id": id,
        "name": str(asked.get("name") or "repeat"),
        "server_label": "supervisor",
        "arguments": json.dumps(asked.get("args") or {}, ensure_ascii=False, sort_keys=True, default=str),
    }


def items_between(
    messages: Sequence[BaseMessage], rounds: dict[int, str], start: int, end: int | None
) -> list[tuple[str, Item]]:
    """What a leg has delivered: the items from one position of its turn to another, with their messages' ids.

    A round has two positions: ``2 * round`` is what its job delivered, ``2 * round + 1`` what functions that run
    here gave back. Decisions are the client's own words, and not part of it.
    """
    prefixes = [(f"{response_id}:", round_) for round_, response_id in rounds.items()]
    found: list[tuple[str, Item]] = []
    for message in messages:
        id = message.id or ""
        for prefix, round_ in prefixes:
            if not id.startswith(prefix):
                continue
            rest = id[len(prefix) :]
            position = 2 * round_ if rest.isdigit() else 2 * round_ + 1
            if not rest.startswith("decision:") and start <= position and (end is None or position < end):
                found += [(id, item) for item in items_from_message(message)]
            break
    return found


def _plain_id(id: str) -> str:
    found = _REPEAT.fullmatch(id)
    return found["call"] if found else id
