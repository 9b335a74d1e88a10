"""Where in a larger graph the supervisor runs: the same for every run of the same place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langchain_core.runnables import RunnableConfig

from .langgraph_internals import (
    CONF,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_TASK_ID,
    PUSH,
    node_attempt,
    parent_steps,
    take_subgraph_number,
    task_digest,
)

CALL_KEY = "__databricks_supervisor_call"
"""Configurable key with the id of a tool call: several calls may run in one task."""

MOST_BRANCHES = 1000
"""Most branches of a fan-out above the parent that can be distinguished."""


def config_of_call(config: RunnableConfig, tool: str, call_id: str) -> RunnableConfig:
    """The config for a graph that runs as a tool call, with its own position and checkpoint namespace.

    LangGraph numbers the graphs that a task calls in the order in which they start, so parallel calls that run again
    could find each other's checkpoints. Here the namespace has the call's id.
    """
    configurable: dict[str, Any] = {**config.get(CONF, {}), CALL_KEY: call_id}
    if CONFIG_KEY_TASK_ID in configurable:
        digest = hashlib.blake2b(call_id.encode(), digest_size=16).hexdigest()
        configurable[CONFIG_KEY_CHECKPOINT_NS] = f"{configurable[CONFIG_KEY_CHECKPOINT_NS]}|{tool}:{digest}"
        scratchpad = configurable.get(CONFIG_KEY_SCRATCHPAD)
        if scratchpad is not None:
            configurable[CONFIG_KEY_SCRATCHPAD] = replace(scratchpad, subgraph_counter=lambda: 0)
    return {**config, CONF: configurable}


def with_own_namespace(config: RunnableConfig) -> RunnableConfig:
    """The config for a graph that a task calls, with its own checkpoint namespace.

    LangGraph appends a number to the namespace of the second and later graphs that a task calls. It assigns the
    number when the graph starts, and continues counting when a retry policy runs the task again. Here the number
    is taken before anything is awaited: simultaneous calls get different numbers, and each attempt gets the same
    ones in the same order.
    """
    configurable: Mapping[str, Any] = config.get(CONF, {})
    scratchpad = configurable.get(CONFIG_KEY_SCRATCHPAD)
    if CONFIG_KEY_TASK_ID not in configurable or scratchpad is None:
        return config
    number = take_subgraph_number(scratchpad.subgraph_counter, node_attempt(configurable))
    namespace = str(configurable.get(CONFIG_KEY_CHECKPOINT_NS) or "")
    own = {
        CONFIG_KEY_CHECKPOINT_NS: f"{namespace}|{number}" if number else namespace,
        CONFIG_KEY_SCRATCHPAD: replace(scratchpad, subgraph_counter=lambda: 0),
    }
    return {**config, CONF: {**configurable, **own}}


def position_of(config: RunnableConfig) -> str:
    """Names-only namespace · Send index · call; ``""`` at top level.

    Read from the config before LangGraph changes it for this graph: after that, twenty identical Sends cannot be
    distinguished (docs/langgraph.md: Input is applied before the first node runs).

    Example:
        >>> position_of({"configurable": {"checkpoint_ns": "research:1f0c|ask:2d1e", "__pregel_task_id": "2d1e"},
        ...              "metadata": {"langgraph_path": ("__pregel_push", 3, False)}})
        'research|ask#3'
    """
    configurable: Mapping[str, Any] = config.get(CONF, {})
    namespace = task_namespace(config)
    if not namespace:
        return ""
    branches = _branches_above(namespace, configurable)
    parts = enumerate(namespace.split("|"))
    names = "|".join(f"{part.split(':')[0]}{branches.get(level, '')}" for level, part in parts)
    index = _index(config.get("metadata", {}).get("langgraph_path"))
    call = configurable.get(CALL_KEY)
    return f"{names}{index}{f'@{call}' if call else ''}"


def step_of(config: RunnableConfig) -> int | None:
    """The parent's superstep, or ``None`` at top level.

    If the parent is a subgraph itself, it begins at the same step each time: then the number is a digest of its step
    and of the steps of all graphs above it.
    """
    if not task_namespace(config):
        return None
    step = config.get("metadata", {}).get("langgraph_step")
    if step is None:
        return None
    above = parent_steps(config.get(CONF, {}).get(CONFIG_KEY_SCRATCHPAD))
    if not above:
        return int(step)
    digest = hashlib.blake2b(repr([int(step), *above]).encode(), digest_size=4).digest()
    return int.from_bytes(digest) & 0x7FFFFFFF


def task_namespace(config: RunnableConfig) -> str:
    """Checkpoint namespace that this graph's own checkpoints have; ``""`` at top level."""
    configurable: Mapping[str, Any] = config.get(CONF, {})
    return str(configurable.get(CONFIG_KEY_CHECKPOINT_NS) or "") if CONFIG_KEY_TASK_ID in configurable else ""


def _index(path: Any) -> str:
    """``#3`` for the fourth Send; for a ``@task``, which call of its caller it is, after the caller's own."""
    if not isinstance(path, tuple | list) or len(path) < 3 or path[0] != PUSH:
        return ""
    return f"{_index(path[1])}#{path[2]}" if isinstance(path[1], tuple | list) else f"#{path[1]}"


def _branches_above(namespace: str, configurable: Mapping[str, Any]) -> dict[int, str]:
    """Send indices of the tasks above the parent's, by level of the namespace.

    LangGraph passes on only the index of the nearest task. But each task id in the namespace is a digest whose input
    includes the index, so the index can be found by trying.
    """
    checkpoints = configurable.get(CONFIG_KEY_CHECKPOINT_MAP) or {}
    steps = parent_steps(configurable.get(CONFIG_KEY_SCRATCHPAD))
    found: dict[int, str] = {}
    above = ""
    for level, part in enumerate(namespace.split("|")):
        name, _, task_id = part.partition(":")
        step = steps.pop() if task_id and steps else None
        checkpoint_id = checkpoints.get(above)
        if step is not None and checkpoint_id:
            origin = bytes.fromhex(checkpoint_id.replace("-", ""))
            made_from = (f"{above}|{name}" if above else name, str(step), name, PUSH)
            indices = (i for i in range(MOST_BRANCHES) if task_digest(origin, *made_from, str(i)) == task_id)
            if (index := next(indices, None)) is not None:
                found[level] = f"#{index}"
        above = f"{above}|{part}" if above else part
    return found
