"""A decision is made once: the first one is recorded, and only what is recorded is sent and stored."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langgraph.types import StreamWriter

from ..items import Item, message_from_item
from ..ledger import EffectKey, Ledger, recorded_decisions
from ..ledger.run_once import Done, run_once
from ..state import Decision, Job

logger = logging.getLogger(__name__)

REPLACED = "replaced by a new message"
DecisionKey = tuple[int, str]
"""Round of the turn, and the id that the ledger has a decision under."""

_LIFETIME_S = 5.0
_LOOKS = 20
_REPEAT_CALL = re.compile(r"repeat_(?P<attempt>\d+)_(?P<call_id>.+)", re.DOTALL)


def resubmit_id(attempt: int) -> str:
    """The id of the decision whether to submit again after an attempt of unknown outcome.

    Example:
        >>> resubmit_id(1)
        'resubmit_1'
    """
    return f"resubmit_{attempt}"


def repeat_call_id(attempt: int, call_id: str) -> str:
    """The id of the decision whether to run a function again after an attempt of unknown outcome.

    The attempt is part of it: another one that is cut off is another question.

    Example:
        >>> parse_repeat_call_id(repeat_call_id(2, "call_1"))
        (2, 'call_1')
    """
    return f"repeat_{attempt}_{call_id}"


def parse_repeat_call_id(id: str) -> tuple[int, str] | None:
    """Attempt and call of such an id; ``None`` for any other one."""
    found = _REPEAT_CALL.fullmatch(id)
    return (int(found["attempt"]), found["call_id"]) if found else None


async def decide(
    ledger: Ledger,
    job: Job,
    answers: Mapping[str, Decision],
    *,
    thread: str,
    writer: StreamWriter,
    sleep: Callable[[float], Awaitable[None]],
) -> dict[str, Decision]:
    """Record an answer to the job's approval requests, and report each decision that an earlier one contradicts.

    After a contradiction the earlier answer gets the time to be recorded completely; what is undecided then stays
    pending.

    Args:
        ledger: Where decisions are recorded.
        job: The job that asks.
        answers: Decisions by approval id.
        thread: LangGraph's ``thread_id``.
        writer: Gets a ``supervisor.decision_conflict`` event for each contradiction.
        sleep: Waits for seconds.

    Returns:
        The decisions that stand, by approval id.
    """
    answer = {(job["round"], id): decision for id, decision in answers.items()}
    standing = await record_answer(ledger, job["turn_id"], answer)
    if first_contradicted(answer, standing) is None:
        return {id: decision for (_, id), decision in standing.items()}
    for _ in range(_LOOKS):
        recorded = recorded_decisions(await ledger.effects(job["turn_id"]))
        standing |= {key: cast(Decision, found) for key, found in recorded.items() if key[0] == job["round"]}
        if answer.keys() <= standing.keys():
            break
        await sleep(_LIFETIME_S / _LOOKS)
    for key in sorted(answer.keys() & standing.keys()):
        if standing[key]["approve"] != answer[key]["approve"]:
            id, approve = key[1], standing[key]["approve"]
            text = conflict(id, approve)
            logger.warning(
                "event=decision_conflict thread=%s response_id=%s %s", thread, job["response_id"], text
            )
            stands = "approved" if approve else "refused"
            writer({"type": "supervisor.decision_conflict", "id": id, "stands": stands, "message": text})
    return {id: decision for (_, id), decision in standing.items()}


async def record_answer(
    ledger: Ledger, turn_id: str, answer: Mapping[DecisionKey, Decision]
) -> dict[DecisionKey, Decision]:
    """Record an answer's decisions in the order of their keys, up to the first that an earlier answer contradicts.

    Every answer is recorded in this order and stops at a contradiction, so contradicting answers do not mix.

    Args:
        ledger: Where they are recorded.
        turn_id: The turn that asked.
        answer: The decisions.

    Returns:
        The decisions that stand: one for each decision of the answer, or up to the first contradiction.
    """
    standing: dict[DecisionKey, Decision] = {}
    for key in sorted(answer):
        standing[key] = await record_decision(ledger, turn_id, key, answer[key])
        if standing[key]["approve"] != answer[key]["approve"]:
            break
    return standing


def first_contradicted(
    answer: Mapping[DecisionKey, Decision], standing: Mapping[DecisionKey, Decision]
) -> DecisionKey | None:
    """The first decision of an answer that is contradicted by the one that stands; ``None`` if there is none."""
    return next(
        (
            key
            for key in sorted(standing)
            if key in answer and standing[key]["approve"] != answer[key]["approve"]
        ),
        None,
    )


def conflict(approval_id: str, approve: bool) -> str:
    """The message for whoever gave the second, contradicting decision."""
    said = "approved" if approve else "refused"
    return f"{approval_id} was {said} by an earlier answer; that one stands, yours was not applied."


async def record_decision(ledger: Ledger, turn_id: str, key: DecisionKey, given: Decision) -> Decision:
    """Record a decision unless one is recorded already; returns the one that stands."""

    async def record(_attempt: int) -> dict[str, Any]:
        return dict(given)

    effect_key = EffectKey(turn_id, key[0], "decision", key[1])
    permit: int | None = None
    while True:
        result = await run_once(ledger, effect_key, record, lifetime_s=_LIFETIME_S, permit=permit)
        if isinstance(result, Done):
            return cast(Decision, result.outcome)
        permit = result.attempt  # The only effect is the record itself: it is safe to repeat.


def decision_message(job: Job, request: Item, decision: Decision) -> BaseMessage:
    """The message of a decision; its item is sent to the service (docs/wire.md: Approvals)."""
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
