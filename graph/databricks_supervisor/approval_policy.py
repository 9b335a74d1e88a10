"""Approval policy, in the vocabulary of OpenAI's MCP tools (``require_approval``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict
from typing_extensions import TypedDict

from .errors import ConfigurationError


class ToolNames(TypedDict, total=False):
    """Tools by name."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    tool_names: list[str]


class ToolFilter(TypedDict, total=False):
    """Which tools always need a person's approval, and which never do. Tools in neither do."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    always: ToolNames
    never: ToolNames


Rule = Literal["always", "never"] | ToolFilter
ApprovalPolicy = Rule | dict[str, Rule]
"""One rule for all servers, or a rule per server label (``"*"`` for the servers that are not named)."""

_RULE_KEYS = {"always", "never"}


def check_policy(policy: object) -> None:
    """Raise ConfigurationError unless ``policy`` is one.

    Example:
        >>> check_policy({"never": {"tool_names": ["search"]}})
        >>> check_policy({"you_dot_com": "never", "*": "always"})
    """
    if isinstance(policy, Mapping) and policy and not set(policy) <= _RULE_KEYS:
        for label, rule in policy.items():
            _check_rule(rule, f"require_approval[{label!r}]")
    else:
        _check_rule(policy, "require_approval")


def needs_person(policy: ApprovalPolicy, server_label: str, tool_name: str) -> bool:
    """Whether a call of this tool needs a person. What no rule names does.

    Example:
        >>> needs_person({"never": {"tool_names": ["search"]}}, "web", "search")
        False
        >>> needs_person({"web": "never"}, "mail", "send")
        True
    """
    rule: Any = policy
    if isinstance(policy, Mapping) and not set(policy) <= _RULE_KEYS:
        rule = policy.get(server_label, policy.get("*", "always"))
    if isinstance(rule, str):
        return rule != "never"
    if tool_name in rule.get("always", {}).get("tool_names", ()):
        return True
    return tool_name not in rule.get("never", {}).get("tool_names", ())


def _check_rule(rule: object, where: str) -> None:
    if rule in ("always", "never"):
        return
    if isinstance(rule, Mapping) and set(rule) <= _RULE_KEYS:
        for key, names in rule.items():
            listed = names.get("tool_names") if isinstance(names, Mapping) else None
            if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
                raise ConfigurationError(f'{where}.{key} must be {{"tool_names": ["…"]}}; got {names!r}.')
        return
    raise ConfigurationError(
        f'{where} must be "always", "never" or {{"always"|"never": {{"tool_names": […]}}}}; got {rule!r}.'
    )
