"""The node that asks a person about tool calls that need approval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.types import interrupt

from .approvals import answer_schema, approval_question, ask, read_answer
from .decisions import decide, decision_message, recorded_decisions
from .errors import InvalidAnswerError
from .items import Item
from .pending import follow_up, pending_of
from .policy import needs_person
from .run import run_of
from .state import Decision, Job, SupervisorState

__all__ = ["approve"]


async def approve(state: SupervisorState, config: RunnableConfig) -> dict[str, Any]:
    """Decide on what is pending: by policy where it says so, by one interrupt for all of the rest.

    One pass asks once. What is answered goes to the state and the node loops by an edge, until nothing is
    open; then the decisions become messages, and the turn goes on. What others decide meanwhile is in the
    ledger alone: whoever records last finds all of it.
    """
    run, job = run_of(config), state["job"]
    pending = pending_of(state, run)
    made = job.get("decisions") or {}
    open_items = [item for item in pending.approvals if item["id"] not in made]
    by_policy = {
        str(item["id"]): Decision(approve=True, by="policy")
        for item in open_items
        if not needs_person(
            run.settings.require_approval, str(item.get("server_label") or ""), str(item.get("name") or "")
        )
    }
    asked = [item for item in open_items if item["id"] not in by_policy]
    answers: Mapping[str, Decision] = by_policy
    if not by_policy and asked:
        try:
            answers = _ask(job, asked)
        except InvalidAnswerError as error:
            return {"job": {**job, "complaint": str(error)}}
    standing = await decide(run, job, answers, get_stream_writer())
    others = await recorded_decisions(run.ledger, job["turn_id"], job["round"])
    known = {**made, **others, **standing}
    requested = {str(item["id"]) for item in pending.approvals}
    decided: Job = {
        **job,
        "decisions": {id: decision for id, decision in known.items() if id in requested},
        "complaint": None,
    }
    if any(item["id"] not in decided["decisions"] for item in pending.approvals):
        return {"job": decided}
    messages = [
        decision_message(job, item, decided["decisions"][str(item["id"])]) for item in pending.approvals
    ]
    settled: Job = {**decided, "decisions": {}}
    if pending.calls:
        return {"messages": messages, "job": settled}
    return await follow_up(run, settled, messages)


def _ask(job: Job, items: list[Item]) -> Mapping[str, Decision]:
    questions = [approval_question(item) for item in items]
    ids = [question.id for question in questions]
    value = ask("mcp_approval", questions, job["response_id"], job.get("complaint"))
    return read_answer(interrupt(value, response_schema=answer_schema(ids)), ids)
