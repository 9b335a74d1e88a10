"""Responses: which part of a turn one public id names, from a request to the turn's end or its next pause.

A turn pauses when it asks a person. The answer is recorded in the ledger, and the next response begins with it. So
the responses of a turn, and which of its items belong to which, follow from the ledger and the thread's messages
alone: every process computes the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import BaseMessage

from databricks_supervisor.approvals.decisions import parse_repeat_call_id
from databricks_supervisor.items import Item, items_from_message
from databricks_supervisor.ledger import Effect, Turn

_ID = re.compile(r"resp_(?P<turn>[\w-]{1,200})_(?P<index>0|[1-9]\d{0,3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ResponseRef:
    """A response, before anything of it is read.

    Attributes:
        turn: Its turn.
        index: Which of the turn's responses it is, 0-based.
        identity: Name of the identity that whoever follows it acts as.
        new: Whether the turn was opened by this very request: it is queued, and there is nothing to read yet.
    """

    turn: Turn
    index: int
    identity: str | None
    new: bool = False

    @property
    def id(self) -> str:
        """The public id."""
        return public_id(self.turn.turn_id, self.index)


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of a turn for a question to a person, which was answered at least in part.

    Attributes:
        position: Where in the turn it is (see :func:`items_between`); the response that it ends has what is before.
        key: The same for all answers that belong to the pause.
        answered_at: When the first answer was recorded, in seconds since the epoch.
        asked: Approval requests that were asked by the graph itself, not by an item of the job.
    """

    position: int
    key: tuple[str, int]
    answered_at: float
    asked: tuple[Item, ...] = ()


def public_id(turn_id: str, index: int) -> str:
    """The public id of a turn's ``index``-th response, 0-based.

    Example:
        >>> parse_public_id(public_id("4f1c", 2))
        ('4f1c', 2)
    """
    return f"resp_{turn_id}_{index}"


def parse_public_id(id: str) -> tuple[str, int] | None:
    """The turn and the response's index that a public id names; ``None`` if it is no such id."""
    found = _ID.fullmatch(id)
    return (found["turn"], int(found["index"])) if found else None


def pauses_of(effects: Iterable[Effect]) -> list[Pause]:
    """The pauses of a turn that people have answered, in order."""
    pauses: dict[tuple[str, int], Pause] = {}
    for effect in effects:
        decision = effect.decision
        if effect.key.kind != "decision" or decision is None or decision.get("by") != "person":
            continue
        round_, id, asked = effect.key.round, effect.key.id, decision.get("asked")
        if asked is None:
            key, position = ("approval", round_), 2 * round_ + 1
        elif (repeated := parse_repeat_call_id(id)) is not None:
            attempt, id = repeated
            key, position = (f"repeat_{attempt}", round_), 2 * round_ + 1
        else:
            key, position = (id, round_), 2 * round_
        requests = () if asked is None else (graph_request(id, asked),)
        pause = pauses.get(key, Pause(position, key, effect.claimed_at))
        answered_at = min(pause.answered_at, effect.claimed_at)
        pauses[key] = replace(pause, answered_at=answered_at, asked=(*pause.asked, *requests))
    return list(pauses.values())


def graph_request(id: str, asked: dict[str, Any]) -> Item:
    """A question of the graph itself as an approval request.

    Args:
        id: The id that a person answers.
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
    messages: Sequence[BaseMessage], response_ids: dict[int, str], start: int, end: int | None
) -> list[tuple[str, Item]]:
    """The items from one position of a turn to another, with the ids of their messages.

    A round has two positions: ``2 * round`` for what its job delivered, ``2 * round + 1`` for the outputs of
    functions that ran here. Decisions are left out: the client sent them itself.

    Args:
        messages: The conversation.
        response_ids: Ids of the turn's jobs at the service, by round.
        start: The first position.
        end: The position after the last one; ``None`` for all that follow.
    """
    prefixes = [(f"{response_id}:", round_) for round_, response_id in response_ids.items()]
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
