"""Converts messages of other models and nodes to Responses items.

Content that no item can represent becomes text, so that nothing is lost silently.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from .content import MEDIA, TEXT, annotations_of, blocks_of, output_text_of, parts_of, text_of
from .json_values import Item, canonical

# How langchain-openai marks a developer message.
DEVELOPER: Final = {"__openai_role__": "developer"}

_ROLES: Final = {"ai": "assistant", "human": "user"} | {
    role: role for role in ("assistant", "user", "system", "developer")
}
_CALLS: Final = ("tool_call", "invalid_tool_call", "tool_use", "function_call")
_FRAGMENTS: Final = ("tool_call_chunk", "server_tool_call_chunk", "input_json_delta")


def role_of(message: BaseMessage) -> str:
    """The Responses role of a message: assistant, user, system or developer; ``tool`` for a tool's output.

    Example:
        >>> role_of(ChatMessage("Hello", role="human"))
        'user'
    """
    match message:
        case ToolMessage():
            return "tool"
        case AIMessage() | FunctionMessage():
            return "assistant"
        case SystemMessage():
            return "developer" if DEVELOPER.items() <= message.additional_kwargs.items() else "system"
        case ChatMessage():
            return _ROLES.get(message.role.lower(), "user")
    return "user"


def items_from_langchain(message: BaseMessage) -> list[Item]:
    """The content of a message as items, in order; ``[]`` if it is empty.

    Args:
        message: A message that was not made from an item.

    Example:
        >>> call = {"name": "add", "args": {"a": 1}, "id": "c1"}
        >>> [item["type"] for item in items_from_langchain(AIMessage("Adding.", tool_calls=[call]))]
        ['message', 'function_call']
    """
    match message:
        case RemoveMessage():
            return []
        case ToolMessage():
            text = output_text_of(message.content)
            if message.status == "error" and not text.lower().startswith("error"):
                text = f"Error: {text}"
            return [{"type": "function_call_output", "call_id": message.tool_call_id, "output": text}]
        case FunctionMessage():
            text = f"Output of {message.name}: {output_text_of(message.content)}"
            return [_message("assistant", [{"type": "output_text", "text": text}])]
        case AIMessage():
            return [*_assistant(message), *_calls(message)]
    role = role_of(message)
    if role == "assistant":
        return _assistant(message)
    parts = parts_of(message.content)
    results = _tool_results(message) if isinstance(message, HumanMessage) else []
    return [*results, _message(role, parts)] if parts else results


def _assistant(message: BaseMessage) -> list[Item]:
    items: list[Item] = []
    parts: list[Item] = []

    def add(item: Item) -> None:
        if parts:
            items.append(_message("assistant", parts.copy()))
            parts.clear()
        items.append(item)

    for block in blocks_of(message.content):
        if (kind := block.get("type")) in _CALLS or kind in _FRAGMENTS:
            continue  # LangChain repeats them in tool_calls.
        if kind == "refusal" and isinstance(block.get("refusal"), str):
            parts.append({"type": "refusal", "refusal": block["refusal"]})
        elif kind in ("reasoning", "thinking", "redacted_thinking"):
            add(_reasoning(block))
        elif kind in TEXT or kind in MEDIA or not isinstance(kind, str):
            if text := text_of(block):
                parts.append({"type": "output_text", "text": text, **annotations_of(block)})
        else:
            add(dict(block))
    refusal = message.additional_kwargs.get("refusal")
    if isinstance(refusal, str) and refusal and all(part["type"] != "refusal" for part in parts):
        parts.append({"type": "refusal", "refusal": refusal})
    return [*items, _message("assistant", parts)] if parts else items


def _calls(message: AIMessage) -> list[Item]:
    calls = [_call(call["id"], call["name"], call["args"]) for call in message.tool_calls]
    calls += [_call(call["id"], call["name"], call["args"]) for call in message.invalid_tool_calls]
    known = {call["call_id"] for call in calls}
    for block in blocks_of(message.content):
        if block.get("type") in _CALLS:
            call_id = block.get("call_id") or block.get("id")
            call_id = call_id if isinstance(call_id, str) else None
            arguments = next((block[key] for key in ("args", "input", "arguments") if key in block), None)
            # A block without an id repeats an entry of tool_calls, if there are any.
            if call_id not in known and (call_id or not known):
                calls.append(_call(call_id, block.get("name"), arguments))
                known.add(calls[-1]["call_id"])
    return calls


def _call(call_id: object, name: object, arguments: object) -> Item:
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, default=str)
    name = name if isinstance(name, str) else ""
    if not isinstance(call_id, str) or not call_id:
        call_id = f"call_{hashlib.sha256(canonical([name, arguments]).encode()).hexdigest()[:24]}"
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def _tool_results(message: HumanMessage) -> list[Item]:
    """Tool results inside a user message, as Anthropic writes them."""
    return [
        {
            "type": "function_call_output",
            "call_id": str(block.get("tool_use_id") or ""),
            "output": output_text_of(block.get("content")),
        }
        for block in blocks_of(message.content)
        if block.get("type") == "tool_result"
    ]


def _message(role: str, parts: list[Item]) -> Item:
    return {"type": "message", "role": role, "content": parts}


def _reasoning(block: Item) -> Item:
    if isinstance(block.get("summary"), list):
        return {key: value for key, value in block.items() if key != "index"}  # An item already.
    text = block.get("reasoning") or block.get("thinking") or block.get("text") or ""
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": str(text)}] if text else []}
