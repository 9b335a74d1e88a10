"""A person's decision happens once: the first one is recorded, and what is sent and stored is what is recorded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langgraph.types import StreamWriter

from .effects import Done, once
from .items import Item, message_from_item
from .ledger import EffectKey, Ledger
from .run import Run
from .state import Decision, Job

__all__ = [
    "REPLACED",
    "conflict",
    "decide",
    "decision_message",
    "record_decision",
    "recorded_decisions",
]

logger = logging.getLogger(__name__)

REPLACED = "replaced by a new message"
_LIFETIME_S = 5.0
_LOOKS = 20


async def decide(
    run: Run, job: Job, answers: Mapping[str, Decision], writer: StreamWriter
) -> dict[str, Decision]:
    """Record an answer's decisions; where another one was recorded first, that one stands and the caller is told.

    Answers that contradict each other do not mix: all are recorded in the same order, and one that meets a
    contradiction goes no further. Whoever contradicted it is given the time to record the rest; what nobody
    decided then stays open.

    Returns:
        The decisions that stand, by approval id.
    """
    standing: dict[str, Decision] = {}
    for approval_id in sorted(answers):
        stands = await record_decision(
            run.ledger, job["turn_id"], job["round"], approval_id, answers[approval_id]
        )
        standing[approval_id] = stands
        if stands["approve"] != answers[approval_id]["approve"]:
            break
    else:
        return standing
    for _ in range(_LOOKS):
        standing |= await recorded_decisions(run.ledger, job["turn_id"], job["round"])
        if answers.keys() <= standing.keys():
            break
        await run.time.sleep(_LIFETIME_S / _LOOKS)
    for approval_id in sorted(answers.keys() & standing.keys()):
        if (approve := standing[approval_id]["approve"]) == answers[approval_id]["approve"]:
            continue
        text = conflict(approval_id, approve)
        logger.warning(
            "event=decision_conflict thread=%s response_id=%s %s", run.thread, job["response_id"], text
        )
        said = "approved" if approve else "refused"
        writer({"type": "supervisor.decision_conflict", "id": approval_id, "stands": said, "message": text})
    return standing


def conflict(approval_id: str, approve: bool) -> str:
    """What whoever decided second is told."""
    said = "approved" if approve else "refused"
    return f"{approval_id} was {said} by an earlier answer; that one stands, yours was not applied."


async def record_decision(
    ledger: Ledger, turn_id: str, round_: int, approval_id: str, given: Decision
) -> Decision:
    """Record one decision, unless one is recorded already; the one that stands."""

    async def record(_attempt: int) -> dict[str, Any]:
        return dict(given)

    key = EffectKey(turn_id, round_, "decision", approval_id)
    permit: int | None = None
    while True:
        result = await once(ledger, key, record, lifetime_s=_LIFETIME_S, permit=permit)
        if isinstance(result, Done):
            return cast(Decision, result.outcome)
        permit = result.attempt  # Nothing but the record itself can have happened: it is safe to make again.


async def recorded_decisions(ledger: Ledger, turn_id: str, round_: int) -> dict[str, Decision]:
    """The decisions of a round that stand by now, by approval id."""
    return {
        effect.key.id: cast(Decision, effect.outcome)
        for effect in await ledger.effects(turn_id)
        if (effect.key.round, effect.key.kind) == (round_, "decision") and "approve" in (effect.outcome or {})
    }


def decision_message(job: Job, request: Item, decision: Decision) -> BaseMessage:
    """The message that holds a decision; the item in it is what the service is sent (CONTRACT: MCP approvals)."""
    item: Item = {
        "type": "mcp_approval_response",
        "id": request["id"],
        "approval_request_id": request["id"],
        "approve": decision["approve"],
    }
    if reason := decision.get("reason"):
        item["reason"] = reason
    message = message_from_item(item, job["response_id"] or "", 0)
    message.id = f"{job['response_id']}:decision:{request['id']}"
    message.additional_kwargs["decided_by"] = decision["by"]
    return message
