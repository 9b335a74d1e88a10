"""Joins what a service reports about approved calls to the approvals that allowed them.

A service may report the run of an approved call as a call and an output under the approval's id, as an ``mcp_call``
that names the approval, as one that does not, as a call and an output under a new id, or not at all. If the next
request had the decided approval again, a service could run the call again: so an approval that was sent once is
never sent again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .call_pairs import LOST, MAX_ID, REFUSED
from .json_values import Item, canonical, parse_object

NOT_REPORTED: Final = "No output: the call was approved and sent, and the service did not report its result."
_OF_CALLERS: Final = ("mcp_approval_response", "function_call_output")


@dataclass(slots=True)
class _Approval:
    """An approval request, and what the conversation says about it so far."""

    item: Item
    decided_at: int | None = None
    approved: bool = False
    has_result: bool = False

    @property
    def id(self) -> str:
        return str(self.item["id"])

    def may_report(self, run: Item) -> bool:
        """Whether a run can be this call's."""
        if not self.approved or self.has_result or _call_of(run) != _call_of(self.item):
            return False
        labels = {_text(run.get("server_label")), _text(self.item.get("server_label"))}
        return len(labels - {""}) < 2


def join_approved_runs(items: Sequence[tuple[Item, bool]]) -> list[Item]:
    """The conversation with every reported run as a ``function_call`` and its ``function_call_output``.

    The run of an approved call gets the approval's id. An approval that was sent and has no result gets an output
    that says so.

    Args:
        items: Items of the conversation, oldest first; each with whether it came as an item, as the service's do.

    Example:
        >>> request = {"type": "mcp_approval_request", "id": "a1", "name": "buy", "arguments": "{}"}
        >>> response = {"type": "mcp_approval_response", "approval_request_id": "a1", "approve": True}
        >>> run = {"type": "mcp_call", "id": "m1", "name": "buy", "arguments": "{}", "output": "ok"}
        >>> [i.get("call_id") for i in join_approved_runs([(request, True), (response, False), (run, True)])]
        [None, None, 'a1', 'a1']
    """
    approvals: list[_Approval] = []
    new_ids = _ids_of_runs_with_new_ids(item for item, _ in items)
    # Responses before their request, as only a client can send them.
    too_early: dict[str, tuple[int, bool]] = {}
    joined: list[tuple[int, Item]] = []
    for index, (item, _) in enumerate(items):
        match item.get("type"):
            case "mcp_approval_request" if isinstance(item.get("id"), str):
                approvals.append(_Approval(item, *too_early.pop(item["id"], (None, False))))
            case "mcp_approval_response":
                approval = _latest(approvals, item.get("approval_request_id"))
                if approval is None:
                    too_early[_text(item.get("approval_request_id"))] = (index, item.get("approve") is True)
                elif approval.decided_at is None:
                    approval.decided_at, approval.approved = index, item.get("approve") is True
            case "function_call_output":
                call_id = new_ids.get(_text(item.get("call_id")), item.get("call_id"))
                if (approval := _latest(approvals, call_id)) is not None:
                    approval.has_result = True
                item = {**item, "call_id": call_id}
            case "function_call" if (call_id := _text(item.get("call_id"))) in new_ids:
                approval = next((each for each in approvals if each.may_report(item)), None)
                new_ids[call_id] = approval.id if approval is not None else call_id
                item = {**item, "call_id": new_ids[call_id]}
            case "mcp_call":
                joined += [(index, each) for each in _as_call(item, approvals)]
                continue
        joined.append((index, item))
    outputs = {
        approval.decided_at: {"type": "function_call_output", "call_id": approval.id, "output": text}
        for approval in approvals
        if approval.decided_at is not None and (text := _missing_result(approval, items))
    }
    return [each for index, item in joined for each in (item, outputs.get(index)) if each is not None]


def _missing_result(approval: _Approval, items: Sequence[tuple[Item, bool]]) -> str:
    """What to say in place of the result of an approval that must not be sent again; ``""`` if it may be sent."""
    if approval.has_result or approval.decided_at is None:
        return ""
    later = items[approval.decided_at + 1 :]
    if any(may_be and _is_of_service(item) for item, may_be in later):
        return NOT_REPORTED if approval.approved else REFUSED
    user_spoke = any(item.get("role") == "user" for item, _ in later)
    return LOST if approval.approved and user_spoke else ""


def _is_of_service(item: Item) -> bool:
    """Whether only the service writes such items."""
    return item.get("type") not in _OF_CALLERS and item.get("role") not in ("user", "system", "developer")


def _as_call(run: Item, approvals: Sequence[_Approval]) -> list[Item]:
    """An ``mcp_call`` as a call and its output; ``[]`` if nothing is known of its result."""
    named = run.get("approval_request_id")
    approval = _latest(approvals, named) if named else None
    if approval is None:
        approval = next((each for each in approvals if each.may_report(run)), None)
    output, error = run.get("output"), run.get("error")
    if output is None and error is None and run.get("status") != "completed":
        return []
    if approval is not None:
        approval.has_result = True
    call_id = approval.id if approval is not None else run.get("id")
    source = approval.item if approval is not None else run
    call = {"type": "function_call", "call_id": call_id}
    call |= {key: source.get(key) for key in ("name", "arguments")}
    result = output if error is None else f"Error: {error if isinstance(error, str) else json.dumps(error)}"
    return [call, {"type": "function_call_output", "call_id": call_id, "output": result}]


def _ids_of_runs_with_new_ids(items: Iterable[Item]) -> dict[str, str]:
    """Ids of calls with an output that are not ids of approvals: each may be the run of an approved call."""
    by_type: dict[Any, set[str]] = {}
    keys = {"function_call": "call_id", "function_call_output": "call_id", "mcp_approval_request": "id"}
    for item in items:
        if key := keys.get(_text(item.get("type"))):
            by_type.setdefault(item["type"], set()).add(_text(item.get(key)))
    requests = by_type.get("mcp_approval_request", set())
    calls = by_type.get("function_call", set()) & by_type.get("function_call_output", set())
    return {id: id for id in calls - requests - {""}} if requests else {}


def _latest(approvals: Sequence[_Approval], id: Any) -> _Approval | None:
    """The latest approval with an id, which may be truncated (docs/wire.md: Ids)."""
    return next((each for each in reversed(approvals) if id in (each.id, each.id[:MAX_ID])), None)


def _call_of(item: Item) -> tuple[str, str]:
    arguments = item.get("arguments")
    parsed = parse_object(arguments)
    return _text(item.get("name")), canonical(arguments if parsed is None else parsed)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
