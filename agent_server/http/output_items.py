"""Items as they go over the wire: what MLflow's schema or a chat client would refuse is repaired or shown as text.

Nothing is dropped and no item is an error: parts are merged into one, missing ids are made, outputs become text, and
a type that clients do not know is shown as reasoning. The thread keeps the original.

Why each repair is needed: docs/wire.md, What clients need.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from databricks_supervisor.items import Item, item_type
from databricks_supervisor.items.json_values import json_safe

_STATUSES = ("in_progress", "completed", "incomplete")
_ANNOTATIONS: dict[str, tuple[tuple[str, type], ...]] = {
    "url_citation": (("url", str), ("title", str)),
    "file_citation": (("file_id", str), ("index", int)),
    "file_path": (("file_id", str), ("index", int)),
}
_TEXTS = ("output_text", "input_text", "text", "summary_text", "reasoning_text")


def output_item(item: Item, message_id: str, shown: Collection[str]) -> Item:
    """An item as clients understand it.

    Args:
        item: The item, as the service gave it.
        message_id: Id of its message in the thread, from which ids are made where it has none.
        shown: Ids of the calls and approval requests that the client has seen: an output of any other call would
            stop some clients.

    Returns:
        A new item that MLflow's ``OutputItem`` accepts and JSON in UTF-8 can hold. The same item and id always give
        the same.

    Example:
        >>> output = {"type": "function_call_output", "call_id": "c1", "output": {"n": 1}}
        >>> output_item(output, "resp_1:0", {"c1"})["output"], output_item(output, "resp_1:0", set())["type"]
        ('{"n": 1}', 'reasoning')
    """
    item = json_safe(item)
    match item_type(item):
        case "message":
            return _message(item, message_id)
        case "function_call":
            return {
                "type": "function_call",
                "id": _id("fc", item, message_id),
                "call_id": _text(item.get("call_id")) or _made("call", message_id),
                "name": _text(item.get("name")) or "unnamed",
                "arguments": _text(item.get("arguments")) or "{}",
                "status": _status(item),
            }
        case "function_call_output" if isinstance(item.get("call_id"), str) and item["call_id"] in shown:
            return {
                "type": "function_call_output",
                "call_id": item["call_id"],
                "output": _text(item.get("output")),
                "status": _status(item),
                "id": _id("fco", item, message_id),
            }
        case "reasoning":
            return _reasoning(_reasoning_text(item), _id("rs", item, message_id))
        case "mcp_approval_request":
            return {
                "type": "mcp_approval_request",
                "id": _id("mcpr", item, message_id),
                "name": _text(item.get("name")) or "unnamed",
                "server_label": _text(item.get("server_label")),
                "arguments": _text(item.get("arguments")) or "{}",
            }
        case kind:
            return _reasoning(_described(kind, item), _id("rs", item, message_id))


def chat_item(item: Item) -> Item:
    """An output item for the AI SDK's provider, which in an answer that is not streamed reads links alone."""
    if item["type"] != "message":
        return item
    content = [
        {**part, "annotations": [each for each in part["annotations"] if each["type"] == "url_citation"]}
        for part in item["content"]
    ]
    return {**item, "content": content}


def _message(item: Item, message_id: str) -> Item:
    role = item.get("role")
    said = "" if role in (None, "assistant") else f"{_text(role)}: "
    text, annotations = said, []
    for part in _parts(item.get("content")):
        if found := _said(part):
            text += "\n\n" if text != said else ""
            given = part.get("annotations") if isinstance(part, dict) else None
            each_given = given if isinstance(given, list) else []
            annotations += [mended for each in each_given if (mended := _annotation(each, len(text)))]
            text += found
    return {
        "type": "message",
        "id": _id("msg", item, message_id),
        "role": "assistant",
        "status": _status(item),
        "content": [{"type": "output_text", "text": text, "annotations": annotations}],
    }


def _said(part: Any) -> str:
    """The text of a part of a content; of a type that clients do not know, all fields as JSON."""
    match part:
        case {"type": "refusal", "refusal": str(text)} | {"text": str(text)} if _is_text(part):
            return text
        case {"type": kind, **rest} if kind in _TEXTS:
            return _text(rest.get("text"))
        case {}:
            return _text(part) if part else ""
    return _text(part)


def _is_text(part: dict[str, Any]) -> bool:
    return part.get("type") in (*_TEXTS, "refusal") or not part.keys() - {"text", "annotations"}


def _annotation(given: Any, moved: int) -> Item | None:
    """An annotation of a type that clients know; the others stay in the thread."""
    fields = _ANNOTATIONS.get(_text(given.get("type"))) if isinstance(given, dict) else None
    if fields is None:
        return None
    mended = {key: value for key, value in given.items() if value is not None}
    if mended["type"] == "url_citation":
        mended["title"] = _text(mended.get("title")) or _text(mended.get("url"))
    if not all(isinstance(mended.get(name), kind) for name, kind in fields):
        return None
    for name in ("start_index", "end_index"):
        if isinstance(mended.get(name), int):
            mended[name] += moved
        elif mended["type"] == "url_citation":
            mended[name] = moved  # Clients refuse a link without a position.
        else:
            mended.pop(name, None)
    return mended


def _reasoning(text: str, id: str) -> Item:
    return {"type": "reasoning", "id": id, "summary": [{"type": "summary_text", "text": text}]}


def _reasoning_text(item: Item) -> str:
    parts = [*_parts(item.get("summary")), *_parts(item.get("content"))]
    return "\n\n".join(said for part in parts if (said := _said(part)))


def _described(kind: Any, item: Item) -> str:
    """An item of a type that clients do not know, as text."""
    name = ".".join(_text(item[key]) for key in ("server_label", "name") if item.get(key))
    rest = {
        key: value
        for key, value in item.items()
        if key not in ("type", "id", "status", "server_label", "name") and value is not None
    }
    title = f"{_text(kind) or 'Item without a type'} {name}".strip()
    return f"{title}: {_text(rest)}" if rest else title


def _status(item: Item) -> str:
    status = item.get("status")
    return status if isinstance(status, str) and status in _STATUSES else "completed"


def _id(prefix: str, item: Item, message_id: str) -> str:
    return _text(item.get("id")) or _made(prefix, message_id)


def _made(prefix: str, message_id: str) -> str:
    return f"{prefix}_{hashlib.sha256(message_id.encode()).hexdigest()[:16]}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
