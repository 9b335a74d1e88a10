"""What a person is asked and how an answer is read: pure functions.

An interrupt's value is one ``HITLRequest`` object, the shape that LangGraph Studio and agent-chat-ui display
(docs/langgraph.md: Interrupts), with what a program needs beside it. An answer is read as a whole and fails closed:
unless all of it is understood, nothing is approved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from ..errors import InvalidAnswerError
from ..items import Item
from ..items.json_values import json_safe
from ..state import Decision


class ActionRequest(TypedDict):
    """One thing to decide on."""

    name: str
    args: dict[str, Any]
    description: str


class ReviewConfig(TypedDict):
    """Which decisions are possible for an action."""

    action_name: str
    allowed_decisions: list[Literal["approve", "reject"]]


class SupervisorInterrupt(TypedDict):
    """Value of every interrupt that the graph raises: a ``HITLRequest`` and more.

    Attributes:
        action_requests: What to decide on, in order.
        review_configs: Which decisions are possible, in the same order.
        kind: What is asked: approval of tool calls, or whether to repeat something of unknown outcome.
        ids: Ids of the action requests, in the same order, for an answer by id.
        server_labels: Server of each action request (``""`` if it has none), in the same order.
        response_id: The job that waits, or ``None`` if its submission is what is asked about.
        error: Why the last answer was not accepted. Nothing of it was applied.
    """

    action_requests: list[ActionRequest]
    review_configs: list[ReviewConfig]
    kind: Literal["mcp_approval", "repeat_submission", "repeat_call"]
    ids: list[str]
    server_labels: list[str]
    response_id: str | None
    error: NotRequired[str]


@dataclass(frozen=True, slots=True)
class PendingAction:
    """One action to decide on.

    Attributes:
        id: Its id.
        name: Name of the action.
        args: Its arguments.
        description: What a person decides on, in words.
        server_label: The server that would run it.
    """

    id: str
    name: str
    args: dict[str, Any]
    description: str
    server_label: str = ""

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked about, to be recorded beside the decision where no item of the job says so."""
        return {"name": self.name, "args": self.args}


def approval_action(item: Item) -> PendingAction:
    """The action that an ``mcp_approval_request`` item asks about (docs/wire.md: Approvals)."""
    name, label = str(item.get("name") or "a tool"), str(item.get("server_label") or "")
    args: dict[str, Any] = json_safe(_parsed(item.get("arguments")))  # They have to survive a checkpoint.
    where = f" on {label}" if label else ""
    listed = "\n".join(f"  {key}: {_shown(value)}" for key, value in args.items()) or "  (no arguments)"
    return PendingAction(
        id=str(item["id"]),
        name=name,
        args=args,
        description=f"The agent wants to call {name}{where} with:\n{listed}",
        server_label=label,
    )


def interrupt_value(
    kind: Literal["mcp_approval", "repeat_submission", "repeat_call"],
    actions: Sequence[PendingAction],
    response_id: str | None,
    error: str | None = None,
) -> SupervisorInterrupt:
    """The interrupt's value for these actions."""
    value = SupervisorInterrupt(
        action_requests=[
            ActionRequest(name=each.name, args=each.args, description=each.description) for each in actions
        ],
        review_configs=[
            ReviewConfig(action_name=each.name, allowed_decisions=["approve", "reject"]) for each in actions
        ],
        kind=kind,
        ids=[each.id for each in actions],
        server_labels=[each.server_label for each in actions],
        response_id=response_id,
    )
    if error:
        value["error"] = error
    return value


def pending_actions(value: SupervisorInterrupt) -> dict[str, PendingAction]:
    """The actions that an interrupt's value asks about, by id, in order.

    Example:
        >>> action = PendingAction("call_1", "send", {"to": "Ann"}, "Send it?", "mail")
        >>> pending_actions(interrupt_value("mcp_approval", [action], "resp_1"))["call_1"] == action
        True
    """
    return {
        id: PendingAction(id, action["name"], action["args"], action["description"], server_label)
        for id, action, server_label in zip(
            value["ids"], value["action_requests"], value["server_labels"], strict=True
        )
    }


def answer_schema(ids: Sequence[str]) -> dict[str, Any]:
    """JSON Schema of the answers that are understood, for clients that check before they send."""
    why = {"type": ["string", "null"], "description": "Why it is refused."}
    decision = {"anyOf": [{"type": "boolean"}, _form("approve"), _form("reject", message=why)]}
    listed = {"type": "array", "items": decision, "minItems": len(ids), "maxItems": len(ids)}
    in_order = {
        "type": "object",
        "title": "In order",
        "properties": {"decisions": listed},
        "required": ["decisions"],
        "additionalProperties": False,
    }
    by_id = {
        "type": "object",
        "title": "By id (may be partial)",
        "properties": dict.fromkeys(ids, decision),
        "minProperties": 1,
        "additionalProperties": False,
    }
    forms: list[dict[str, Any]] = [by_id] if "decisions" in ids else [in_order, by_id]
    if len(ids) == 1:
        forms.append({"type": "boolean", "title": "Yes or no"})
    return {"title": "Decision", "anyOf": forms}


def read_answer(answer: Any, ids: Sequence[str]) -> dict[str, Decision]:
    """Read a person's answer to the questions with these ids.

    Args:
        answer: ``{"decisions": […]}`` in order and of exactly that length; a map by id, which may be
            partial; or a bare ``True``/``False`` when there is one question.
        ids: Ids of what is pending, in order.

    Returns:
        The decisions by id; only a map may leave some out.

    Raises:
        InvalidAnswerError: Any of it is not understood, or names an id that is not pending.

    Example:
        >>> read_answer({"decisions": [{"type": "reject", "message": "not today"}]}, ["call_1"])
        {'call_1': {'approve': False, 'by': 'person', 'reason': 'not today'}}
        >>> read_answer({"call_2": True}, ["call_1", "call_2"])
        {'call_2': {'approve': True, 'by': 'person'}}
    """
    if isinstance(answer, bool):
        if len(ids) != 1:
            raise InvalidAnswerError(
                f"A bare {answer} answers one question, and {len(ids)} are pending: "
                f"answer by id ({', '.join(ids)}) or in order. Nothing was approved."
            )
        return {ids[0]: _decision(answer)}
    if not isinstance(answer, Mapping) or not answer:
        raise InvalidAnswerError(
            f"An answer is {{'decisions': […]}}, a map by id, or True or False for a single question; "
            f"got {_shown(answer)}. Nothing was approved."
        )
    if set(answer) == {"decisions"} and "decisions" not in ids:
        given = answer["decisions"]
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != len(ids):
            count = len(given) if isinstance(given, Sequence) and not isinstance(given, str) else "no list of"
            raise InvalidAnswerError(
                f"{len(ids)} decisions are needed, in order; got {count}. Nothing was approved."
            )
        return {id: _decision(each) for id, each in zip(ids, given, strict=True)}
    if unknown := [str(id) for id in answer if id not in ids]:
        raise InvalidAnswerError(
            f"Not pending: {', '.join(unknown)}. Pending: {', '.join(ids)}. Nothing was approved."
        )
    return {str(id): _decision(each) for id, each in answer.items()}


def _form(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, **more},
        "required": ["type"],
        "additionalProperties": False,
    }


def _decision(given: Any) -> Decision:
    if isinstance(given, bool):
        return Decision(approve=given, by="person")
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "approve" and set(given) <= {"type"}:
        return Decision(approve=True, by="person")
    if kind == "reject" and set(given) <= {"type", "message"}:
        reason = given.get("message")
        if reason is None:
            return Decision(approve=False, by="person")
        if isinstance(reason, str):
            return Decision(approve=False, by="person", reason=reason)
    raise InvalidAnswerError(
        "A decision is True, False, {'type': 'approve'} or {'type': 'reject', 'message': '…'}; "
        f"got {_shown(given)}. Nothing was approved."
    )


def _parsed(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            return {"arguments": arguments}
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 500 else f"{text[:500]}…"
