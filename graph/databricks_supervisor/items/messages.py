"""Converts Responses items to LangChain messages, one message per item, and back without loss.

A message has the item's content for users and other models, and stores the item itself (:mod:`.original_item`).
:mod:`.from_langchain` converts messages of other nodes and models to items.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call

from .from_langchain import DEVELOPER, items_from_langchain
from .json_values import Item, canonical, is_json_safe, json_safe, parse_object
from .original_item import ITEM_KEY, restore_original, store_original

_MAX_NOTE = 200
_TEXT_TYPES = ("output_text", "input_text", "text")


def message_id(response_id: str, index: int) -> str:
    """Id of the message of a response's own item number ``index`` (0-based).

    Example:
        >>> message_id("resp_1", 0)
        'resp_1:0'
    """
    return f"{response_id}:{index}"


def is_of_response(message: BaseMessage, response_id: str | None) -> bool:
    """Whether a message belongs to a response: one of its items, or a decision or output for one.

    Example:
        >>> is_of_response(AIMessage("42", id=message_id("resp_1", 0)), "resp_1")
        True
    """
    return response_id is not None and (message.id or "").startswith(f"{response_id}:")


def item_type(item: Item) -> Any:
    """The type of an item. Messages may omit it.

    Example:
        >>> item_type({"role": "user", "content": "Hi"})
        'message'
    """
    return item.get("type", "message" if "role" in item else None)


def as_item(value: object) -> Item:
    """An entry of an ``output`` as an item; an entry that is not an object is wrapped.

    Example:
        >>> as_item(None)
        {'type': 'unreadable', 'value': None}
    """
    return value if isinstance(value, dict) else {"type": "unreadable", "value": value}


def message_from_item(item: Item, response_id: str, index: int) -> BaseMessage:
    """The message of an item. Never fails: an unknown item becomes a short note, and is stored whole.

    Args:
        item: One entry of a response's ``output`` (or of an input).
        response_id: Id of the response, for the message's id.
        index: Position among the response's own items, 0-based.

    Returns:
        An ``AIMessage``, ``HumanMessage``, ``SystemMessage`` or ``ToolMessage``, for which
        :func:`items_from_message` returns ``[item]``.

    Example:
        >>> call = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
        >>> message = message_from_item(call, "resp_1", 2)
        >>> message.id, message.tool_calls[0]["args"]
        ('resp_1:2', {'a': 1})
        >>> items_from_message(message) == [call]
        True
    """
    item = as_item(item)
    message = _build(copy.deepcopy(item) if is_json_safe(item) else json_safe(item))
    message.id = message_id(response_id, index)
    message.additional_kwargs[ITEM_KEY] = store_original(item, message)
    return message


def items_from_message(message: BaseMessage) -> list[Item]:
    """The item that a message was made from, unchanged; for any other message, its content as items.

    If the content or tool calls were edited since, the edited message counts.

    Args:
        message: Any LangChain message.

    Returns:
        New items, safe to change. ``[]`` for an empty message.

    Example:
        >>> items_from_message(HumanMessage("Hello"))
        [{'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': 'Hello'}]}]
    """
    original = restore_original(message)
    return items_from_langchain(message) if original is None else [original]


def _build(item: Item) -> BaseMessage:
    match item_type(item):
        case "message":
            return _message(item)
        case "function_call":
            return _function_call(item)
        case "function_call_output":
            return ToolMessage(_output(item.get("output")), tool_call_id=_text(item.get("call_id")))
        case "reasoning":
            parts = [*_list(item.get("summary")), *_list(item.get("content"))]
            texts = [text for part in parts if isinstance(text := _get(part, "text"), str)]
            return AIMessage([{"type": "reasoning", "reasoning": text} for text in texts or [""]])
        case "mcp_approval_request":
            return AIMessage(_note("Approval needed", item.get("name"), item.get("server_label")))
        case "mcp_approval_response":
            return _decision(item)
        case kind:
            title = kind if isinstance(kind, str) and kind else "Item without a type"
            return AIMessage(_note(title, item.get("name"), item.get("server_label")))


def _message(item: Item) -> BaseMessage:
    content = _content(item.get("content"))
    match item.get("role"):
        case "user":
            return HumanMessage(content)
        case "system":
            return SystemMessage(content)
        case "developer":
            return SystemMessage(content, additional_kwargs=dict(DEVELOPER))
    return AIMessage(content)


def _function_call(item: Item) -> AIMessage:
    arguments, call_id = item.get("arguments"), item.get("call_id")
    name = _text(item.get("name"))
    call_id = None if call_id is None else _text(call_id)
    args = parse_object(arguments)
    # Checkpointers cannot serialise integers over 64 bits in tool calls.
    if args is not None and is_json_safe(args):
        return AIMessage("", tool_calls=[tool_call(name=name, args=args, id=call_id)])
    error = "The arguments are not a JSON object."
    invalid = invalid_tool_call(name=name, args=_text(arguments), id=call_id, error=error)
    return AIMessage("", invalid_tool_calls=[invalid])


def _decision(item: Item) -> HumanMessage:
    verdict = "Approved" if item.get("approve") is True else "Refused"
    reason = item.get("reason")
    text = _note(verdict, item.get("approval_request_id"))
    return HumanMessage(f"{text}. {reason}" if isinstance(reason, str) and reason else text)


def _output(output: object) -> str | list[str | dict[Any, Any]]:
    if output is None:
        return ""
    if isinstance(output, str):
        return output
    if isinstance(output, list) and output and all(isinstance(_get(part, "type"), str) for part in output):
        return _content(output)
    return json.dumps(output, ensure_ascii=False)


def _content(content: object) -> str | list[str | dict[Any, Any]]:
    if content is None:
        return ""
    if not isinstance(content, list):
        return _text(content)
    blocks = [_block(part) for part in content]
    match blocks:
        case []:
            return ""
        case [{"type": _, "text": str(text), **more}] if not more:
            return text
    return blocks


def _block(part: object) -> str | dict[Any, Any]:
    """A content part as a block that LangChain's integrations support."""
    if not isinstance(part, dict):
        return _text(part)
    match part:
        case {"type": kind} if kind in _TEXT_TYPES:
            block: dict[Any, Any] = {"type": "text", "text": _text(part.get("text"))}
            if _list(part.get("annotations")):
                block["annotations"] = part["annotations"]
            return block
        case {"type": "refusal"}:
            return {"type": "refusal", "refusal": _text(part.get("refusal"))}
        case {"type": "input_image", "image_url": str(url)}:
            detail = part.get("detail")
            extra = {"detail": detail} if isinstance(detail, str) else {}
            return {"type": "image_url", "image_url": {"url": url, **extra}}
        case {"type": "input_file"} if not part.get("file_url"):
            keys = ("filename", "file_data", "file_id")
            return {"type": "file", "file": {key: part[key] for key in keys if part.get(key) is not None}}
    return part


def _note(title: str, name: object = None, label: object = None) -> str:
    text = f"{title}: {name}" if isinstance(name, str) and name else title
    text = f"{text} ({label})" if isinstance(label, str) and label else text
    return text if len(text) <= _MAX_NOTE else f"{text[: _MAX_NOTE - 1]}…"


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else canonical(value)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _get(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None
