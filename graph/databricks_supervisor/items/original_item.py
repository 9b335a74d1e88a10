"""The original item of a message, kept beside it without keeping its texts twice.

What :func:`store_original` gives is the item without the longer texts that the message holds itself (its content,
its calls' arguments). :func:`restore_original` puts them back. A digest of what the message says is kept too: once
another node has edited the message, the original no longer counts.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from .json_values import canonical, is_json_safe

ITEM_KEY: Final = "responses_item"

_SHORT: Final = 32  # A text below this is cheaper to keep than to refer to.
_STYLES: Final[tuple[dict[str, Any], ...]] = tuple(
    {"ensure_ascii": ascii_only, "separators": separators}
    for ascii_only in (False, True)
    for separators in ((", ", ": "), (",", ":"))
)


def store_original(item: dict[str, Any], message: BaseMessage) -> dict[str, Any]:
    """What to store so that :func:`restore_original` gives the item back.

    Args:
        item: The original item.
        message: The message that was made of it, complete.

    Returns:
        A JSON object that any checkpointer can write.
    """
    if not is_json_safe(item):
        return {"json": json.dumps(item), "digest": _digest(message)}
    known = {canonical(value): number for number, value in enumerate(_held(message))}
    holes: list[list[Any]] = []

    def strip(value: Any, path: list[str | int]) -> Any:
        if isinstance(value, str):
            if len(value) >= _SHORT and (number := known.get(canonical(value))) is not None:
                holes.append([number, *path])
                return None
            return value
        if (
            value
            and isinstance(message, ToolMessage)
            and path == ["output"]
            and (number := known.get(canonical(value))) is not None
        ):
            holes.append([number, *path])
            return None
        if isinstance(value, dict):
            return {key: strip(inner, [*path, key]) for key, inner in value.items()}
        if isinstance(value, list):
            return [strip(inner, [*path, index]) for index, inner in enumerate(value)]
        return value

    kept = {"item": strip(item, []), "digest": _digest(message)}
    return {**kept, "holes": holes} if holes else kept


def restore_original(message: BaseMessage) -> dict[str, Any] | None:
    """The original item, a fresh copy; ``None`` if there is none or the message was edited since."""
    kept = message.additional_kwargs.get(ITEM_KEY)
    if not isinstance(kept, dict) or kept.get("digest") != _digest(message):
        return None
    try:
        item = json.loads(kept["json"]) if "json" in kept else copy.deepcopy(kept["item"])
        held = list(_held(message)) if kept.get("holes") else []
        for number, *path, last in kept.get("holes", ()):
            place = item
            for step in path:
                place = place[step]
            place[last] = copy.deepcopy(held[number])
    except (KeyError, IndexError, TypeError, ValueError):
        return None  # Not written by store_original(): the message speaks for itself.
    return item if isinstance(item, dict) else None


def _digest(message: BaseMessage) -> str:
    """A short digest of all that the message says."""
    calls: list[Any] = []
    if isinstance(message, AIMessage):
        calls = [[call["name"], call["args"], call["id"]] for call in message.tool_calls]
        calls += [[call["name"], call["args"], call["id"]] for call in message.invalid_tool_calls]
    said = [message.type, message.content, calls, getattr(message, "tool_call_id", None)]
    return hashlib.sha256(canonical(said).encode()).hexdigest()[:16]


def _held(message: BaseMessage) -> Iterator[Any]:
    """Every value that the message holds and an item may need, in an order that never changes."""
    yield from _texts(message.content)
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            yield from (json.dumps(call["args"], **style) for style in _STYLES)
        for invalid in message.invalid_tool_calls:
            yield invalid["args"]
    if isinstance(message, ToolMessage) and isinstance(message.content, str):
        value = _parsed(message.content)
        if isinstance(value, dict | list):
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


def _parsed(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
