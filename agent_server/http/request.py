"""Reads and checks a request, before anything is done with it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from databricks_supervisor.items import Item
from databricks_supervisor.items.json_values import is_json_safe

from .errors import invalid_request

MOST_ITEMS = 10_000
DEEPEST = 100
_ROLES = ("user", "system", "developer", "assistant")


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A request to create a response.

    Attributes:
        items: The ``input``, as items.
        stream: Whether the client wants events.
        background: Whether the client does not wait for the end.
        thread: The name of the thread, or ``None``.
        conversation: Whether the thread was named as a conversation: chat surfaces send the whole conversation.
        previous: ``previous_response_id``.
        key: ``Idempotency-Key``.
        tools: Schemas of the client's own functions.
        arrived_at: When the request came, in seconds since the epoch.
    """

    items: list[Item]
    stream: bool = False
    background: bool = False
    thread: str | None = None
    conversation: bool = False
    previous: str | None = None
    key: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    arrived_at: float = field(default_factory=time.time)


def parse_request(raw: bytes, headers: Mapping[str, str]) -> CreateRequest:
    """Read a request's body and headers (by lower-case name).

    Raises:
        ApiError: 400, with the field that is wrong.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise invalid_request(f"The body is not JSON: {type(error).__name__}.", None) from None
    if not isinstance(body, dict):
        raise invalid_request("The body must be a JSON object with an 'input'.", None)
    thread, conversation = _thread(body)
    return CreateRequest(
        items=_items(body.get("input")),
        stream=_flag(body, "stream"),
        background=_flag(body, "background"),
        thread=thread,
        conversation=conversation,
        previous=_id(body.get("previous_response_id"), "previous_response_id"),
        key=_id(headers.get("idempotency-key"), "Idempotency-Key"),
        tools=_tools(body.get("tools")),
    )


def _items(given: Any) -> list[Item]:
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise invalid_request("'input' must be a text or a list of items that is not empty.", "input")
    if len(given) > MOST_ITEMS:
        raise invalid_request(f"'input' has {len(given)} items; {MOST_ITEMS} is the most.", "input")
    for index, item in enumerate(given):
        _check_item(item, f"input[{index}]")
    return given


def _check_item(item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise invalid_request(f"{where} must be an object.", where)
    if not _is_flat(item):
        raise invalid_request(f"{where} is nested deeper than {DEEPEST} levels.", where)
    kind = item.get("type", "message")
    if not isinstance(kind, str):
        raise invalid_request(f"{where}.type must be a text.", f"{where}.type")
    match kind:
        case "message":
            if item.get("role") not in _ROLES:
                raise invalid_request(f"{where}.role must be one of {', '.join(_ROLES)}.", f"{where}.role")
            if not isinstance(item.get("content"), str | list):
                raise invalid_request(
                    f"{where}.content must be a text or a list of parts.", f"{where}.content"
                )
        case "function_call_output":
            _need(item, "call_id", where)
        case "mcp_approval_response":
            _need(item, "approval_request_id", where)
            if not isinstance(item.get("approve"), bool):
                raise invalid_request(f"{where}.approve must be true or false.", f"{where}.approve")


def _need(item: Item, name: str, where: str) -> None:
    given = item.get(name)
    if not isinstance(given, str) or not given or "\0" in given or not is_json_safe(given):
        raise invalid_request(
            f"{where}.{name} must be a text in Unicode that is not empty.", f"{where}.{name}"
        )


def _is_flat(value: Any, depth: int = 0) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth < DEEPEST and all(_is_flat(each, depth + 1) for each in inner)


def _thread(body: dict[str, Any]) -> tuple[str | None, bool]:
    custom, context = _object(body, "custom_inputs"), _object(body, "context")
    for name in ("thread_id", "session_id"):
        if (named := _id(custom.get(name), f"custom_inputs.{name}")) is not None:
            return named, False
    named = _id(context.get("conversation_id"), "context.conversation_id")
    return named, named is not None


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    given = body.get(name)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise invalid_request(f"{name} must be an object.", name)
    return given


def _id(given: Any, name: str) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not given.strip() or len(given) > 1000 or not given.isprintable():
        raise invalid_request(f"{name} must be a printable text of 1 to 1000 characters.", name)
    return given


def _flag(body: dict[str, Any], name: str) -> bool:
    given = body.get(name)
    if given is not None and not isinstance(given, bool):
        raise invalid_request(f"{name} must be true or false.", name)
    return bool(given)


def _tools(given: Any) -> list[dict[str, Any]]:
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise invalid_request("tools must be a list of objects.", "tools")
    for index, tool in enumerate(given):
        if tool.get("type") != "function":
            raise invalid_request(
                f"tools[{index}]: only functions that the client runs itself can be brought along "
                '({"type": "function", …}); other tools are the agent\'s own.',
                f"tools[{index}]",
            )
        if not is_json_safe(tool):
            raise invalid_request(
                f"tools[{index}] holds what cannot be kept: a number beyond 64 bits or that is none, half a "
                f"character, or more than {DEEPEST} levels.",
                f"tools[{index}]",
            )
    known = ("type", "name", "description", "parameters")
    return [{key: tool[key] for key in known if tool.get(key) is not None} for tool in given]
