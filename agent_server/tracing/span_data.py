"""What the spans say, read from what the graph's callbacks are given: pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage, ToolMessage

from databricks_supervisor.items import items_from_message

_NODES = frozenset({"submit", "poll", "approve", "call_tools"})


def node_of(metadata: Mapping[str, Any] | None, name: Any) -> str | None:
    """The supervisor's node that a callback is about; ``None`` for what runs inside of a node."""
    metadata = metadata or {}
    node = metadata.get("langgraph_node")
    if node not in _NODES or name != node or "|" in str(metadata.get("langgraph_checkpoint_ns", "")):
        return None
    return str(node)


def messages_in(given: Any) -> list[BaseMessage]:
    """The messages in an input, or in what a node returned."""
    messages = given.get("messages") if isinstance(given, Mapping) else None
    listed = messages if isinstance(messages, list) else [messages]
    return [m for m in listed if isinstance(m, BaseMessage) and not isinstance(m, RemoveMessage)]


def question_in(messages: Sequence[BaseMessage]) -> Any:
    """The question that messages end with, as a request; ``None`` if there is none."""
    asked: list[BaseMessage] = []
    for message in reversed(messages):
        if not isinstance(message, HumanMessage) and asked:
            break
        if isinstance(message, HumanMessage | ToolMessage):
            asked.append(message)
    items = [item for message in reversed(asked) for item in items_from_message(message)]
    return {"input": items} if items else None


def progress_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """How far a job is, as attributes of a span."""
    return {
        "supervisor.polls": job.get("polls"),
        "supervisor.status": job.get("status"),
        "supervisor.items": job.get("delivered"),
    }


def parts_of(outputs: Any) -> Sequence[Any]:
    """What a node returned, as a list."""
    return outputs if isinstance(outputs, list) else [outputs]


def plain(value: Any) -> Any:
    """A value as JSON; of what is not JSON only its type, as its text might hold a secret."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return f"<{type(value).__name__}>"
    return value
