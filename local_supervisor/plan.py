"""Plans the output of a job: the echoed history, results of approvals, the content, and new calls."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from . import items as make
from .behaviour import Behaviour, CallSpec
from .conversation import ApprovalAnswer, Conversation
from .demo import KNOWN_MCP_TOOLS, demonstrate
from .ids import IdFactory

Item = dict[str, Any]


@dataclass(frozen=True)
class ToolRun:
    """An approved call of an MCP tool."""

    call_id: str
    name: str
    arguments: str


@dataclass
class Plan:
    """The output of a job.

    Args:
        items: All items. `result_marker(call_id)` is a placeholder for the result of a tool run.
        echoed: Number of items at the beginning that repeat the input's history.
        runs: Approved calls to run.
    """

    items: list[Item] = field(default_factory=list)
    echoed: int = 0
    runs: list[ToolRun] = field(default_factory=list)

    @property
    def waits_at(self) -> int | None:
        """Index of the first item that needs the result of a tool."""
        for index, item in enumerate(self.items):
            text = json.dumps(item)
            if any(result_marker(run.call_id) in text for run in self.runs):
                return index
        return None


def result_marker(call_id: str) -> str:
    """Placeholder for a result that is not known yet."""
    return f"<<result of {call_id}>>"


def plan_output(conversation: Conversation, behaviour: Behaviour, tools: list[Item], ids: IdFactory) -> Plan:
    """Plan the output of a job.

    Args:
        conversation: The parsed input.
        behaviour: May set the content; otherwise the demonstration answers.
        tools: The request's tools.
        ids: Creates the ids of this response.
    """
    plan = Plan()
    plan.items = _echo(conversation, behaviour, ids)
    plan.echoed = len(plan.items)
    for answer in conversation.approvals:
        _add_result(plan, answer)
    if behaviour.scripted:
        plan.items += _scripted(behaviour, ids)
    elif conversation.approvals:
        plan.items.append(make.message(ids, _closing(conversation, plan.runs)))
    else:
        plan.items += demonstrate(conversation, tools, ids)
    for number in range(behaviour.unknown_items):
        novelty = {"type": "databricks_novelty", "id": ids.item("nov"), "payload": {"number": number}}
        plan.items.insert(plan.echoed + 2 * number, novelty)
    return plan


def _echo(conversation: Conversation, behaviour: Behaviour, ids: IdFactory) -> list[Item]:
    if behaviour.echo == "none":
        return []
    echoed: list[Item] = []
    for item in conversation.history:
        kind = item.get("type", "message")
        copy = {**item, "type": kind, "status": "completed"}
        if kind == "message" and isinstance(item.get("content"), str):
            copy["content"] = [{"type": "output_text", "text": item["content"], "annotations": []}]
        if kind != "function_call_output":
            same_id = item.get("id") if behaviour.echo == "same_ids" else None
            prefix = "msg" if kind == "message" else "fc"
            copy["id"] = None if behaviour.echo == "no_ids" else same_id or ids.item(prefix)
        echoed.append(copy)
    return echoed


def _add_result(plan: Plan, answer: ApprovalAnswer) -> None:
    if not answer.approve:
        reason = f" Reason: {answer.reason}" if answer.reason else ""
        plan.items.append(make.function_output(answer.id, f"The user refused this tool call.{reason}"))
    elif answer.name in KNOWN_MCP_TOOLS:
        plan.runs.append(ToolRun(answer.id, answer.name, answer.arguments))
        plan.items.append(make.function_output(answer.id, result_marker(answer.id)))
    else:
        result = f"{answer.name} was run with {answer.arguments}"
        plan.items.append(make.function_output(answer.id, result))


def _closing(conversation: Conversation, runs: list[ToolRun]) -> str:
    running = {run.call_id for run in runs}
    lines = [f"`{answer.name}` says: {answer.output}" for answer in conversation.outputs]
    for answer in conversation.approvals:
        if not answer.approve:
            reason = f" (reason: {answer.reason})" if answer.reason else ""
            lines.append(
                f"I did not run `{answer.name}`, because you refused it{reason}. Nothing was changed."
            )
        elif answer.id in running:
            lines.append(f"I ran `{answer.name}`, as you approved. It answered: {result_marker(answer.id)}")
        else:
            lines.append(f"I ran `{answer.name}`, as you approved.")
    return "\n".join(lines)


def _scripted(behaviour: Behaviour, ids: IdFactory) -> list[Item]:
    output = [_with_ids(item, ids) for item in behaviour.items or []]
    if behaviour.reply_words is not None:
        output.append(make.message(ids, " ".join(f"word{n}" for n in range(1, behaviour.reply_words + 1))))
    if behaviour.reply is not None:
        output.append(make.message(ids, behaviour.reply))
    output += [make.function_call(ids, call.name, call.arguments, call.id) for call in behaviour.calls]
    output += [_request(spec, ids) for spec in behaviour.approvals]
    return output


def _request(spec: CallSpec, ids: IdFactory) -> Item:
    return make.approval_request(ids, spec.name, spec.arguments, spec.server_label, spec.id)


def _with_ids(item: Item, ids: IdFactory) -> Item:
    """Add missing ids; an id that is given as null stays null."""
    kind = str(item.get("type", "message"))
    filled = {"type": kind, **item}
    if "id" not in filled and kind != "function_call_output":
        filled["id"] = ids.approval() if kind == "mcp_approval_request" else ids.item(kind[:4])
    if kind == "function_call" and "call_id" not in filled:
        filled["call_id"] = ids.call()
    return filled
