"""Output items in the service's format."""

from __future__ import annotations

import json
from typing import Any

from .ids import IdFactory

Item = dict[str, Any]


def message(ids: IdFactory, text: str) -> Item:
    """A message of the assistant."""
    return {
        "type": "message",
        "id": ids.item("msg"),
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }


def reasoning(ids: IdFactory, text: str) -> Item:
    """A summary of the next step."""
    return {"type": "reasoning", "id": ids.item("rs"), "summary": [{"type": "summary_text", "text": text}]}


def function_call(
    ids: IdFactory, name: str, arguments: dict[str, Any] | str, call_id: str | None = None
) -> Item:
    """A call of a hosted tool or of a client-side function, which have the same format."""
    return {
        "type": "function_call",
        "id": ids.item("fc"),
        "call_id": call_id or ids.call(),
        "name": name,
        "arguments": as_arguments(arguments),
        "status": "completed",
    }


def function_output(call_id: str, output: str) -> Item:
    """A call's result. It has no id."""
    return {"type": "function_call_output", "call_id": call_id, "output": output, "status": "completed"}


def approval_request(
    ids: IdFactory,
    name: str,
    arguments: dict[str, Any] | str,
    server_label: str,
    request_id: str | None = None,
) -> Item:
    """A call of an MCP tool that needs approval."""
    return {
        "type": "mcp_approval_request",
        "id": request_id or ids.approval(),
        "name": name,
        "server_label": server_label,
        "arguments": as_arguments(arguments),
    }


def as_arguments(arguments: dict[str, Any] | str) -> str:
    """Arguments as a JSON string."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
