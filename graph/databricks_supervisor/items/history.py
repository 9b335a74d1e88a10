"""The conversation as the input of a request, and the question in it.

Removes what the service rejects: its output-only fields, nulls, calls without an output, two outputs of one call
(:mod:`.call_pairs`). The same messages always give the same request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    ToolMessage,
)

from .approved_runs import join_approved_runs
from .call_pairs import pair_calls, shorten_ids
from .content import annotations_of, blocks_of, output_text_of, parts_of, text_of
from .from_langchain import role_of
from .json_values import Item, canonical, is_json_safe, json_safe, parse_object
from .messages import is_of_response, item_type, items_from_message
from .original_item import ITEM_KEY


def question(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """This turn's question: the messages after the last assistant or tool message.

    If there are none (another agent of a shared parent graph wrote last), the messages from the last user message
    on. Decisions on approvals are never part of a question.

    Args:
        messages: The conversation, oldest first.

    Returns:
        Messages of the conversation, in order, without empty ones; ``[]`` if there is no question.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> question([HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage("How much?")])[0].text
        'How much?'
    """
    messages = [m for m in messages if not isinstance(m, RemoveMessage) and not _is_decision(m)]
    start = 1 + max((i for i, message in enumerate(messages) if _is_answer(message)), default=-1)
    if start == len(messages):
        start = max((i for i, message in enumerate(messages) if role_of(message) == "user"), default=0)
    return [message for message in messages[start:] if _role_content_pairs(message)]


def question_digest(messages: Sequence[BaseMessage]) -> str:
    """Digest of the question's roles and contents, without ids, names or metadata.

    Args:
        messages: The conversation, oldest first.

    Returns:
        SHA-256, as 64 hexadecimal digits. Equal for the same content in different formats, and for a question that
        is there several times because it was sent to a parent graph again before the answer.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> one, other = HumanMessage("Hi", id="1"), HumanMessage([{"type": "text", "text": "Hi"}])
        >>> question_digest([one]) == question_digest([other])
        True
    """
    pairs = [pair for message in question(messages) for pair in _role_content_pairs(message)]
    return hashlib.sha256(canonical(_shortest_period(pairs)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class HistoryRules:
    """What a service accepts in the history that a request sends back.

    Attributes:
        item_ids: Whether messages and calls keep their ids. Services of reasoning models refuse an id whose reasoning
            item is missing.
        approval_response_ids: Whether the response to an approval request has an id, equal to the request's.
    """

    item_ids: bool = True
    approval_response_ids: bool = True


def request_input(messages: Sequence[BaseMessage], rules: HistoryRules | None = None) -> list[Item]:
    """The whole conversation as the ``input`` of a create request.

    Includes messages, function calls with their outputs, runs that the service reported as ``mcp_call``, and
    decided approvals that were not sent yet (docs/wire.md: History). Leaves out reasoning (model endpoints reject
    what another one encrypted) and other output-only types (``mcp_list_tools``, unknown ones).

    Args:
        messages: The conversation, oldest first.
        rules: What the service accepts.

    Returns:
        New items with known keys only, no nulls and no id over 64 characters, and exactly one output per call.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> request_input([HumanMessage("Hi")])
        [{'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': 'Hi'}]}]
    """
    items = [
        (item, ITEM_KEY in message.additional_kwargs)
        for message in messages
        for item in items_from_message(message)
    ]
    sendable = [clean for item in join_approved_runs(items) if (clean := _clean(item)) is not None]
    paired = pair_calls(_without_duplicates(shorten_ids(sendable)))
    return [_by_rules(item, rules) for item in paired] if rules is not None else paired


def _by_rules(item: Item, rules: HistoryRules) -> Item:
    has_id = {
        "message": rules.item_ids,
        "function_call": rules.item_ids,
        "mcp_approval_response": rules.approval_response_ids,
    }
    return {key: value for key, value in item.items() if key != "id" or has_id.get(item["type"], True)}


def sent_input(messages: Sequence[BaseMessage], response_id: str) -> list[Item]:
    """The ``input`` of the request that created a response, with all ids.

    Args:
        messages: The conversation, oldest first; the response's own messages are ignored.
        response_id: Id of the response.
    """
    return request_input([message for message in messages if not is_of_response(message, response_id)])


def _without_duplicates(items: Sequence[Item]) -> list[Item]:
    """Removes equal messages with one id, and the id of other messages and calls whose id was used before."""
    first_by_id: dict[str, Item] = {}
    unique: list[Item] = []
    for item in items:
        item_id = item.get("id") if item["type"] in ("message", "function_call") else None
        first = first_by_id.setdefault(item_id, item) if item_id is not None else item
        if first is item:
            unique.append(item)
        elif item != first or item["type"] != "message":
            unique.append({key: value for key, value in item.items() if key != "id"})
    return unique


def _shortest_period(values: list[Any]) -> list[Any]:
    """The shortest list whose repetition gives ``values``."""
    size = len(values)
    periods = (n for n in range(1, size) if size % n == 0 and values == values[:n] * (size // n))
    return values[: next(periods, size)]


def _is_answer(message: BaseMessage) -> bool:
    return isinstance(message, AIMessage | ToolMessage | FunctionMessage) or role_of(message) == "assistant"


def _is_decision(message: BaseMessage) -> bool:
    if not isinstance(message, HumanMessage) or ITEM_KEY not in message.additional_kwargs:
        return False
    return any(item.get("type") == "mcp_approval_response" for item in items_from_message(message))


def _role_content_pairs(message: BaseMessage) -> list[list[Any]]:
    pairs: list[list[Any]] = []
    for item in items_from_message(message):
        match _clean(item):
            case {"type": "message", "role": role, "content": parts}:
                pairs.append([role, [_comparable(part) for part in parts]])
            case {"type": "function_call", "name": name, "arguments": arguments}:
                pairs.append(["assistant", [name, json.loads(arguments)]])
            case {"type": "function_call_output", "output": output}:
                pairs.append(["tool", output])
            case {"type": "mcp_approval_request", "name": name}:
                pairs.append(["assistant", ["approval", name]])
    return pairs


def _comparable(part: Item) -> Item:
    if part["type"] in ("input_text", "output_text"):
        return {"type": "text", "text": part["text"]}
    return {key: value for key, value in part.items() if key != "filename"}


def _clean(item: Item) -> Item | None:
    """An item with the keys that the service accepts; ``None`` if it does not accept the item."""
    if not is_json_safe(item):
        item = json_safe(item)
    match item_type(item):
        case "message":
            return _message(item)
        case "function_call":
            name = _string(item.get("name"))
            return _with_id(item, "call_id", name=name, arguments=_arguments(item)) if name else None
        case "function_call_output":
            return _with_id(item, "call_id", output=output_text_of(item.get("output")))
        case "mcp_approval_request":
            label, name = _string(item.get("server_label")), _string(item.get("name"))
            fields = {"name": name, "server_label": label, "arguments": _arguments(item)}
            return _with_id(item, "id", **fields) if name else None
        case "mcp_approval_response":
            reason = _string(item.get("reason"))
            extra = {"reason": reason} if reason else {}
            approve = item.get("approve") is True
            clean = _with_id(item, "approval_request_id", approve=approve, **extra)
            # Approvals failed without an id equal to the request's (docs/wire.md: Approvals).
            return clean and {**clean, "id": clean["approval_request_id"]}
    return None


def _with_id(item: Item, key: str, **fields: Any) -> Item | None:
    """An item of its type, its id under ``key``, and some fields; ``None`` if the id is missing."""
    if not (value := _string(item.get(key))):
        return None
    clean = {"type": item["type"], key: value, **fields}
    if item["type"] == "function_call" and (item_id := _string(item.get("id"))):
        clean["id"] = item_id
    return clean


def _message(item: Item) -> Item | None:
    role = item.get("role")
    if role not in ("user", "system", "developer"):
        parts = [
            {"type": "output_text", "text": text, **annotations_of(block)}
            for block in blocks_of(item.get("content"))
            if (text := text_of(block))
        ]
        known_id = {"id": item_id} if (item_id := _string(item.get("id"))) else {}
        return {"type": "message", **known_id, "role": "assistant", "content": parts} if parts else None
    parts = parts_of(item.get("content"))
    if role != "user":
        parts = [part for part in parts if part["type"] == "input_text"]
    return {"type": "message", "role": role, "content": parts} if parts else None


def _arguments(item: Item) -> str:
    """Arguments as the text of a JSON object, unchanged if they are one.

    Invalid arguments in the history would make every later request fail at endpoints that parse them.
    """
    arguments = item.get("arguments")
    if (parsed := parse_object(arguments)) is None:
        parsed = {"arguments": arguments}
    elif isinstance(arguments, str) and arguments:
        return arguments
    return json.dumps(parsed, ensure_ascii=False)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
