"""LangChain's agent-chat-ui: what it needs of an interrupt to draw its buttons, and what they send."""

from __future__ import annotations

from typing import Any

YES = {"type": "approve"}
NO = {"type": "reject", "message": "too dear"}


def is_drawn_by_agent_chat_ui(value: Any) -> bool:
    """The condition under which agent-chat-ui draws an interrupt, from its source."""
    if not isinstance(value, dict):
        return False
    requests, configs = value.get("action_requests"), value.get("review_configs")
    if not isinstance(requests, list) or not isinstance(configs, list) or not requests or not configs:
        return False
    return all(isinstance(r.get("name"), str) and isinstance(r.get("args"), dict) for r in requests) and all(
        isinstance(c.get("action_name"), str) and isinstance(c.get("allowed_decisions"), list)
        for c in configs
    )
