"""The conversation as the service wants it, and the question in it.

What the service refuses is taken out here: fields that it only sends, nulls, calls without an output, two
results of one call (:mod:`.stories`). The same messages always give the same request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    ToolMessage,
)

from .call_pairs import pair_calls, shorten_ids
from .content import annotations_of, blocks_of, output_text_of, parts_of, text_of
from .from_langchain import role_of
from .json_values import canonical, is_json_safe, json_safe, parse_object
from .messages import Item, is_of_response, item_type, items_from_message
from .original_item import ITEM_KEY


def question(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """This turn's question: what follows the last assistant or tool message.

    Where nothing follows (another agent of a shared parent graph spoke last), it is everything from the last
    message of a person on. Decisions on approvals are never part of a question.

    Args:
        messages: The conversation, oldest first.

    Returns:
        Messages of the conversation, in order, without those that say nothing; ``[]`` if nothing is asked.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> question([HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage("How much?")])[0].text
        'How much?'
    """
    asked = [
        message
        for message in messages
        if not isinstance(message, RemoveMessage) and not _is_decision(message)
    ]
    start = 1 + max((i for i, message in enumerate(asked) if _is_answer(message)), default=-1)
    if start == len(asked):
        people = (i for i, message in enumerate(asked) if role_of(message) == "user")
        start = max(people, default=0)
    return [message for message in asked[start:] if _said(message)]


def question_digest(messages: Sequence[BaseMessage]) -> str:
    """Digest of the question alone, as (role, content): no ids, names or metadata.

    Args:
        messages: The conversation, oldest first.

    Returns:
        SHA-256, as 64 hexadecimal digits. Equal for the same content in different notations, and for a
        question that is there several times because a parent graph was asked again before it had an answer.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> one, other = HumanMessage("Hi", id="1"), HumanMessage([{"type": "text", "text": "Hi"}])
        >>> question_digest([one]) == question_digest([other])
        True
    """
    said = _once([pair for message in question(messages) for pair in _said(message)])
    return hashlib.sha256(canonical(said).encode()).hexdigest()


def request_input(messages: Sequence[BaseMessage]) -> list[Item]:
    """The whole conversation as the ``input`` of a create request.

    Sent are messages, function calls with their outputs, and approvals that are answered but not carried out
    (docs/wire.md: History). Left out are reasoning (model endpoints refuse what another one
    encrypted) and every type that the service only sends (``mcp_call``, ``mcp_list_tools``, unknown ones).

    Args:
        messages: The conversation, oldest first.

    Returns:
        New items that hold known keys only, no nulls and no id over 64 characters, every call followed by
        exactly one output.

    Example:
        >>> from langchain_core.messages import HumanMessage
        >>> request_input([HumanMessage("Hi")])
        [{'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': 'Hi'}]}]
    """
    items = [item for message in messages for item in items_from_message(message)]
    sendable = [clean for item in items if (clean := _clean(item)) is not None]
    return pair_calls(_unrepeated(shorten_ids(sendable)))


def sent_input(messages: Sequence[BaseMessage], response_id: str) -> list[Item]:
    """What the request of a response sent: the conversation without what the response has delivered itself.

    Args:
        messages: The conversation, oldest first, with the response's own messages or some of them.
        response_id: Id of the response.
    """
    return request_input([message for message in messages if not is_of_response(message, response_id)])


def _unrepeated(items: Sequence[Item]) -> list[Item]:
    """Each id on one message or call only; a message that is there twice as a whole, once."""
    seen: dict[str, Item] = {}
    kept: list[Item] = []
    for item in items:
        item_id = item.get("id") if item["type"] in ("message", "function_call") else None
        first = seen.setdefault(item_id, item) if item_id is not None else item
        if first is item:
            kept.append(item)
        elif item != first or item["type"] != "message":
            kept.append({key: value for key, value in item.items() if key != "id"})
    return kept


def _once(said: list[Any]) -> list[Any]:
    """The shortest part that the whole is a repetition of."""
    lengths = (n for n in range(1, len(said)) if len(said) % n == 0 and said == said[:n] * (len(said) // n))
    return said[: next(lengths, len(said))]


def _is_answer(message: BaseMessage) -> bool:
    return isinstance(message, AIMessage | ToolMessage | FunctionMessage) or role_of(message) == "assistant"


def _is_decision(message: BaseMessage) -> bool:
    if not isinstance(message, HumanMessage) or ITEM_KEY not in message.additional_kwargs:
        return False
    return any(item.get("type") == "mcp_approval_response" for item in items_from_message(message))


def _said(message: BaseMessage) -> list[list[Any]]:
    """What a message says, as (role, content) pairs."""
    said: list[list[Any]] = []
    for item in items_from_message(message):
        match _clean(item):
            case {"type": "message", "role": role, "content": parts}:
                said.append([role, [_spoken(part) for part in parts]])
            case {"type": "function_call", "name": name, "arguments": arguments}:
                said.append(["assistant", [name, json.loads(arguments)]])
            case {"type": "function_call_output", "output": output}:
                said.append(["tool", output])
            case {"type": "mcp_approval_request", "name": name}:
                said.append(["assistant", ["approval", name]])
    return said


def _spoken(part: Item) -> Item:
    if part["type"] in ("input_text", "output_text"):
        return {"type": "text", "text": part["text"]}
    return {key: value for key, value in part.items() if key != "filename"}


def _clean(item: Item) -> Item | None:
    """An item with the keys that the service takes; ``None`` for one that it cannot take."""
    if not is_json_safe(item):
        item = json_safe(item)
    match item_type(item):
        case "message":
            return _message(item)
        case "function_call":
            name = _string(item.get("name"))
            return _named(item, "call_id", name=name, arguments=_arguments(item)) if name else None
        case "function_call_output":
            return _named(item, "call_id", output=output_text_of(item.get("output")))
        case "mcp_approval_request":
            label = _string(item.get("server_label"))
            name = _string(item.get("name"))
            fields = {"name": name, "server_label": label, "arguments": _arguments(item)}
            return _named(item, "id", **fields) if name else None
        case "mcp_approval_response":
            reason = item.get("reason")
            extra = {"reason": reason} if isinstance(reason, str) and reason else {}
            approve = item.get("approve") is True
            clean = _named(item, "approval_request_id", approve=approve, **extra)
            # docs/wire.md: Approvals. Without an id, equal to the request's, approvals failed.
            return clean and {**clean, "id": clean["approval_request_id"]}
    return None


def _named(item: Item, key: str, **fields: Any) -> Item | None:
    """An item of known fields; ``None`` if it has no name by which anything could refer to it."""
    value = item.get(key)
    if not isinstance(value, str) or not value:
        return None
    clean = {"type": item["type"], key: value, **fields}
    item_id = item.get("id")
    if item["type"] == "function_call" and isinstance(item_id, str) and item_id:
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
        item_id = item.get("id")
        known = {"id": item_id} if isinstance(item_id, str) and item_id else {}
        return {"type": "message", **known, "role": "assistant", "content": parts} if parts else None
    parts = parts_of(item.get("content"))
    if role != "user":
        parts = [part for part in parts if part["type"] == "input_text"]
    return {"type": "message", "role": role, "content": parts} if parts else None


def _arguments(item: Item) -> str:
    """Arguments as the text of a JSON object, as written where they are one.

    Broken arguments in the history would make every later request fail at endpoints that parse them.
    """
    arguments = item.get("arguments")
    if (parsed := parse_object(arguments)) is None:
        parsed = {"arguments": arguments}
    elif isinstance(arguments, str) and arguments:
        return arguments
    return json.dumps(parsed, ensure_ascii=False)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
