"""Parses the input of a request: the question, earlier questions, the round, and answers to the last round."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from .behaviour import split_directives
from .errors import ApiError
from .ids import round_of_call

Item = dict[str, Any]


@dataclass(frozen=True)
class ApprovalAnswer:
    """A person's decision about an approval request, both as found in the input."""

    id: str
    name: str
    arguments: str
    approve: bool
    reason: str | None


@dataclass(frozen=True)
class FunctionAnswer:
    """The output of a client-side function, as found in the input."""

    call_id: str
    name: str
    output: str


@dataclass(frozen=True)
class Conversation:
    """The parsed input of a request.

    Args:
        question: Text of the last user message, without directives.
        raw_question: The same text with directives.
        directive: The directives' fields.
        earlier: Earlier questions, oldest first, without directives.
        round: 0 for the question, 1 for the first follow-up of the turn, and so on.
        approvals, outputs: The decisions and outputs in this follow-up.
        history: Assistant messages, calls and outputs, which an echo repeats.
    """

    question: str
    raw_question: str
    directive: dict[str, Any]
    earlier: list[str]
    round: int = 0
    approvals: list[ApprovalAnswer] = field(default_factory=list)
    outputs: list[FunctionAnswer] = field(default_factory=list)
    history: list[Item] = field(default_factory=list)


def text_of(item: Item) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(
        part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
    )


def read(body: dict[str, Any]) -> Conversation:
    """Parse a request.

    Raises:
        ApiError: A directive in the last user message is invalid.
    """
    raw = body.get("input")
    items: list[Item] = [item for item in raw if isinstance(item, dict)] if isinstance(raw, list) else []
    users = [index for index, item in enumerate(items) if item.get("role") == "user"]
    last_user = users[-1] if users else -1
    raw_question = text_of(items[last_user]) if users else ""
    question, directive = split_directives(raw_question)
    approvals, outputs = _answers(items, last_user, _declared_functions(body))
    latest = max([asked for asked, _ in approvals] + [asked for asked, _ in outputs], default=-1)
    return Conversation(
        question=question,
        raw_question=raw_question,
        directive=directive,
        earlier=[_without_directives(text_of(items[index])) for index in users[:-1]],
        round=latest + 1,
        approvals=[answer for asked, answer in approvals if asked == latest],
        outputs=[answer for asked, answer in outputs if asked == latest],
        history=[item for item in items if _is_history(item)],
    )


def digest(body: dict[str, Any]) -> str:
    """A short digest of the whole input: equal for two submissions of the same conversation."""
    canonical = json.dumps(body.get("input"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _without_directives(text: str) -> str:
    try:
        return split_directives(text)[0]
    except ApiError:  # an invalid directive of an earlier message is ignored
        return text


def _declared_functions(body: dict[str, Any]) -> set[str]:
    tools = body.get("tools")
    if not isinstance(tools, list):
        return set()
    return {
        str(tool.get("name")) for tool in tools if isinstance(tool, dict) and tool.get("type") == "function"
    }


def _is_history(item: Item) -> bool:
    return item.get("role") == "assistant" or item.get("type") in ("function_call", "function_call_output")


def _answers(
    items: list[Item], last_user: int, declared: set[str]
) -> tuple[list[tuple[int, ApprovalAnswer]], list[tuple[int, FunctionAnswer]]]:
    """The decisions and outputs after the last user message, each with the round that asked for it.

    A refusal sent together with a new question stands before that question, so it is part of the history.
    """
    requests = {item.get("id"): item for item in items if item.get("type") == "mcp_approval_request"}
    calls = {item.get("call_id"): item for item in items if item.get("type") == "function_call"}
    approvals: list[tuple[int, ApprovalAnswer]] = []
    outputs: list[tuple[int, FunctionAnswer]] = []
    unnumbered = 0
    in_group = False
    for item in items[last_user + 1 :]:
        kind = item.get("type")
        if kind == "mcp_approval_response":
            call_id = str(item.get("approval_request_id"))
        elif kind == "function_call_output":
            call_id = str(item.get("call_id"))
            if calls.get(call_id, {}).get("name") not in declared:
                continue  # a hosted call: the service ran it itself
        else:
            in_group = False
            continue
        if not in_group:
            unnumbered += 1
            in_group = True
        numbered = round_of_call(call_id)
        asked_in = numbered if numbered is not None else unnumbered - 1
        if kind == "mcp_approval_response":
            request = requests.get(call_id, {})
            answer = ApprovalAnswer(
                id=call_id,
                name=str(request.get("name", "tool")),
                arguments=str(request.get("arguments", "{}")),
                approve=item.get("approve") is True,
                reason=item.get("reason"),
            )
            approvals.append((asked_in, answer))
        else:
            name = str(calls[call_id].get("name"))
            outputs.append((asked_in, FunctionAnswer(call_id, name, _as_text(item.get("output")))))
    return approvals, outputs


def _as_text(output: object) -> str:
    if isinstance(output, str):
        return output
    if isinstance(output, list):
        return "\n".join(str(part.get("text", "")) for part in output if isinstance(part, dict))
    return json.dumps(output)
