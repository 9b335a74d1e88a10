"""Rejects the requests that a strict service rejects (docs/wire.md)."""

from __future__ import annotations

import re
from typing import Any

from .errors import ApiError

MAX_ID_LENGTH = 64
_FUNCTION_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
_INFERENCE_PARAMETERS = (
    "temperature", "top_p", "top_k", "max_output_tokens", "max_tokens", "stop", "frequency_penalty",
    "presence_penalty", "logit_bias", "top_logprobs", "seed",
)  # fmt: skip
_NESTED_TOOLS = {
    "genie_space": "id",
    "uc_function": "name",
    "knowledge_assistant": "knowledge_assistant_id",
    "uc_connection": "name",
    "app": "name",
}
_KEYS = {
    "message": {"type", "role", "content", "id"},
    "function_call": {"type", "id", "call_id", "name", "arguments"},
    "function_call_output": {"type", "id", "call_id", "output"},
    "reasoning": {"type", "id", "summary", "content", "encrypted_content"},
    "mcp_approval_request": {"type", "id", "name", "server_label", "arguments"},
    "mcp_approval_response": {"type", "id", "approval_request_id", "approve", "reason"},
}
_REQUIRED = {
    "message": {"role", "content"},
    "function_call": {"call_id", "name", "arguments"},
    "function_call_output": {"call_id", "output"},
    "reasoning": set[str](),
    "mcp_approval_request": {"id", "name", "server_label", "arguments"},
    "mcp_approval_response": {"id", "approval_request_id", "approve"},
}

Item = dict[str, Any]


def check_request(body: Item, lenient: bool = False) -> None:
    """Check a create request.

    Args:
        body: The request's JSON.
        lenient: Skips the checks of the input's items that only a strict service makes.

    Raises:
        ApiError: 400, with the contract's error texts.
    """
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise ApiError(400, "model: a non-empty string is required")
    items = body.get("input")
    if not isinstance(items, list) or not items:
        raise ApiError(400, "input: a non-empty list is required")
    if body.get("previous_response_id") is not None:
        raise ApiError(400, "previous_response_id is not supported: send the whole conversation as input")
    if body.get("stream") and body.get("background"):
        raise ApiError(400, "stream and background cannot both be true")
    if body.get("stream"):
        raise ApiError(
            400, "stream: this local service answers in the background or at once, not as a stream"
        )
    _check_tools(body)
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            raise ApiError(400, f"input[{position}]: an object is required")
        _check_ids(position, item)
        if not lenient:
            _check_item(position, item)
    _check_calls(items, lenient)


def _check_tools(body: Item) -> None:
    tools = body.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        raise ApiError(400, "tools: a list is required")
    if tools:
        for name in _INFERENCE_PARAMETERS:
            if body.get(name) is not None:
                raise ApiError(400, f"Parameter not supported when tools are provided: {name}")
    for position, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str):
            raise ApiError(400, f"tools[{position}]: an object with a type is required")
        if kind == "function":
            _check_function(position, tool)
        elif kind in _NESTED_TOOLS:
            settings = tool.get(kind)
            wanted = _NESTED_TOOLS[kind]
            if not isinstance(settings, dict) or not isinstance(settings.get(wanted), str):
                raise ApiError(400, f"tools[{position}]: {kind}.{wanted} is required, nested under {kind!r}")


def _check_function(position: int, tool: Item) -> None:
    name = tool.get("name")
    if not isinstance(name, str) or not _FUNCTION_NAME.match(name):
        raise ApiError(400, f"function tool 'name' must match {_FUNCTION_NAME.pattern}, got {name!r}")
    if "parameters" in tool:
        parameters = tool["parameters"]
        if not isinstance(parameters, dict) or parameters.get("type") != "object":
            raise ApiError(400, f"tools[{position}]: parameters must be an object schema or absent")


def _check_ids(position: int, item: Item) -> None:
    for key in ("id", "call_id", "approval_request_id"):
        value = item.get(key)
        if isinstance(value, str) and len(value) > MAX_ID_LENGTH:
            raise ApiError(
                400,
                f"input[{position}].{key}: string too long, expected at most {MAX_ID_LENGTH} characters, "
                f"got {len(value)}",
            )


def _check_item(position: int, item: Item) -> None:
    kind = item.get("type", "message" if "role" in item else None)
    if not isinstance(kind, str):
        raise ApiError(400, f"input[{position}]: an item needs a type or a role")
    if "status" in item:
        raise ApiError(400, f"input[{position}].status: Extra inputs are not permitted")
    if (path := _null_in(item)) is not None:
        raise ApiError(400, f"input[{position}]{path}: null is not permitted")
    if kind not in _KEYS:
        return
    if extra := sorted(item.keys() - _KEYS[kind]):
        raise ApiError(400, f"input[{position}].{extra[0]}: Extra inputs are not permitted")
    if missing := sorted(_REQUIRED[kind] - item.keys()):
        raise ApiError(400, f"input[{position}].{missing[0]}: Field required in {kind}")
    for key in ("arguments", "name", "call_id"):
        if key in item and not isinstance(item[key], str):
            raise ApiError(400, f"input[{position}].{key}: a string is required")
    if kind == "function_call_output" and not isinstance(item["output"], str | list):
        raise ApiError(400, f"input[{position}].output: a string is required")
    if kind == "mcp_approval_response" and not isinstance(item["approve"], bool):
        raise ApiError(400, f"input[{position}].approve: a boolean is required")


def _null_in(value: object, path: str = "") -> str | None:
    if value is None:
        return path
    if isinstance(value, dict):
        found = (_null_in(inner, f"{path}.{key}") for key, inner in value.items())
    elif isinstance(value, list):
        found = (_null_in(inner, f"{path}[{index}]") for index, inner in enumerate(value))
    else:
        return None
    return next((inner for inner in found if inner is not None), None)


def _check_calls(items: list[Item], lenient: bool) -> None:
    """Every call has exactly one result, and every result a call before it."""
    calls: set[str] = set()
    requests: set[str] = set()
    results: set[str] = set()
    for item in items:
        kind = item.get("type")
        if kind in ("function_call", "mcp_approval_request"):
            call_id = str(item.get("call_id" if kind == "function_call" else "id"))
            if call_id in calls and not lenient:
                raise ApiError(400, f"tool_use ids must be unique: {call_id}")
            calls.add(call_id)
            if kind == "mcp_approval_request":
                requests.add(call_id)
        elif kind == "function_call_output":
            call_id = str(item.get("call_id"))
            if call_id not in calls:
                raise ApiError(400, f"No tool call found for function call output with call_id {call_id}.")
            _add_result(results, call_id)
        elif kind == "mcp_approval_response":
            call_id = str(item.get("approval_request_id"))
            if call_id not in requests:
                raise ApiError(400, f"No approval request found for approval_request_id {call_id}")
            if item.get("id") != call_id:
                raise ApiError(400, f"mcp_approval_response.id must equal approval_request_id {call_id}")
            _add_result(results, call_id)
    if not lenient and (dangling := sorted(calls - results)):
        raise ApiError(400, f"No tool output found for function call {dangling[0]}.")


def _add_result(results: set[str], call_id: str) -> None:
    if call_id in results:
        raise ApiError(400, f"each tool_use must have a single result: {call_id}")
    results.add(call_id)
