"""Items of the Responses API by hand: messages, calls, outputs, approval requests and their answers."""

from __future__ import annotations

from typing import Any

PNG = "data:image/png;base64,aGk="
"""An image."""


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def assistant(text: str, **extra: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text}]
    return {"type": "message", "role": "assistant", "content": content, **extra}


def call(call_id: str, arguments: str = "{}", name: str = "f") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str, text: Any = "ok") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def request(id_: str) -> dict[str, Any]:
    labels = {"name": "web-search", "server_label": "you_dot_com", "arguments": '{"query": "x"}'}
    return {"type": "mcp_approval_request", "id": id_, **labels}


def response(id_: str, approve: bool = True, **extra: Any) -> dict[str, Any]:
    return {
        "type": "mcp_approval_response",
        "id": id_,
        "approval_request_id": id_,
        "approve": approve,
        **extra,
    }
