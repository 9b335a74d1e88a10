"""Stores the original item in its message, without storing long texts twice.

:func:`store_original` leaves out the long texts that the message contains (its content, its calls' arguments);
:func:`restore_original` inserts them again. A digest of the message is stored too: if another node has edited the
message since, the original is ignored.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from .json_values import canonical, is_json_safe

ITEM_KEY: Final = "responses_item"

_MIN_TEXT: Final = 32  # A shorter text is cheaper to store twice than to refer to.
_STYLES: Final[tuple[dict[str, Any], ...]] = tuple(
    {"ensure_ascii": ascii_only, "separators": separators}
    for ascii_only in (False, True)
    for separators in ((", ", ": "), (",", ":"))
)


def store_original(item: dict[str, Any], message: BaseMessage) -> dict[str, Any]:
    """The data from which :func:`restore_original` restores the item.

    Args:
        item: The original item.
        message: The complete message that was made from it.

    Returns:
        A JSON object that any checkpointer can store.
    """
    if not is_json_safe(item):
        return {"json": json.dumps(item), "digest": _digest(message)}
    known = {canonical(value): number for number, value in enumerate(_values(message))}
    holes: list[list[Any]] = []

    def strip(value: Any, path: list[str | int]) -> Any:
        is_text = isinstance(value, str) and len(value) >= _MIN_TEXT
        is_output = value and isinstance(value, dict | list) and path == ["output"]
        may_repeat = is_text or (is_output and isinstance(message, ToolMessage))
        if may_repeat and (number := known.get(canonical(value))) is not None:
            holes.append([number, *path])
            return None
        if isinstance(value, dict):
            return {key: strip(inner, [*path, key]) for key, inner in value.items()}
        if isinstance(value, list):
            return [strip(inner, [*path, index]) for index, inner in enumerate(value)]
        return value

    stored = {"item": strip(item, []), "digest": _digest(message)}
    return {**stored, "holes": holes} if holes else stored


def restore_original(message: BaseMessage) -> dict[str, Any] | None:
    """The original item, a fresh copy; ``None`` if there is none or the message was edited since."""
    stored = message.additional_kwargs.get(ITEM_KEY)
    if not isinstance(stored, dict) or stored.get("digest") != _digest(message):
        return None
    try:
        item = json.loads(stored["json"]) if "json" in stored else copy.deepcopy(stored["item"])
        values = list(_values(message)) if stored.get("holes") else []
        for number, *path, last in stored.get("holes", ()):
            parent = item
            for step in path:
                parent = parent[step]
            parent[last] = copy.deepcopy(values[number])
    except (KeyError, IndexError, TypeError, ValueError):
        return None  # Not written by store_original().
    return item if isinstance(item, dict) else None


def _digest(message: BaseMessage) -> str:
    calls: list[Any] = []
    if isinstance(message, AIMessage):
        calls = [[call["name"], call["args"], call["id"]] for call in message.tool_calls]
        calls += [[call["name"], call["args"], call["id"]] for call in message.invalid_tool_calls]
    content = [message.type, message.content, calls, getattr(message, "tool_call_id", None)]
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def _values(message: BaseMessage) -> Iterator[Any]:
    """The values in a message that its item may contain too. Their order is part of the stored format."""
    yield from _texts(message.content)
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            yield from (json.dumps(call["args"], **style) for style in _STYLES)
        for invalid in message.invalid_tool_calls:
            yield invalid["args"]
    if isinstance(message, ToolMessage) and isinstance(message.content, str):
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(value := json.loads(message.content), dict | list):
                yield value


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _texts(value[key])
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
