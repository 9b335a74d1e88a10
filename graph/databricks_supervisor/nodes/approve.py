"""The node that decides on tool calls which wait for approval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.types import interrupt

from ..approval_policy import needs_person
from ..approvals.decisions import decide, decision_message
from ..approvals.interrupts import answer_schema, approval_action, interrupt_value, read_answer
from ..errors import InvalidAnswerError
from ..items import Item
from ..items.output import pending_of
from ..ledger import recorded_decisions
from ..run import run_of
from ..state import Decision, Job, SupervisorState
from .transitions import start_next_round


async def approve(state: SupervisorState, config: RunnableConfig) -> dict[str, Any]:
    """Decide on what is pending: by policy where it says so, by one interrupt for all of the rest.

    One pass raises one interrupt. Decisions go into the state and the node loops by an edge until nothing is
    undecided; then they become messages and the next round starts. Decisions that other processes record meanwhile
    are read from the ledger.
    """
    run, job = run_of(config), state["job"]
    pending = pending_of(state["messages"], job["response_id"], run.settings.function_names)
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
    standing = await decide(
        run.ledger, job, answers, thread=run.thread, writer=get_stream_writer(), sleep=run.time.sleep
    )
    recorded = recorded_decisions(await run.ledger.effects(job["turn_id"]))
    others = {id: cast(Decision, found) for (round_, id), found in recorded.items() if round_ == job["round"]}
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
    return await start_next_round(run, settled, messages)


def _ask(job: Job, items: list[Item]) -> Mapping[str, Decision]:
    actions = [approval_action(item) for item in items]
    ids = [action.id for action in actions]
    value = interrupt_value("mcp_approval", actions, job["response_id"], job.get("complaint"))
    return read_answer(interrupt(value, response_schema=answer_schema(ids)), ids)
