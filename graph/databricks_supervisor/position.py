"""Where in a thread's graph a run enters: what stays the same when it enters there again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langchain_core.runnables import RunnableConfig

__all__ = ["CALL_KEY", "config_of_call", "position_of", "step_of", "task_namespace"]

CALL_KEY = "__databricks_supervisor_call"
"""Configurable under which a tool says which call it is, as several run in one task."""


def config_of_call(config: RunnableConfig, tool: str, call_id: str) -> RunnableConfig:
    """The config for a graph that runs as one tool call: with a position and checkpoints of its own.

    LangGraph numbers the graphs that one task calls in the order in which they start, so parallel calls could
    find each other's checkpoints when they run again. Here the call's id says whose they are.
    """
    configurable: dict[str, Any] = {**config.get("configurable", {}), CALL_KEY: call_id}
    if "__pregel_task_id" in configurable:
        digest = hashlib.blake2b(call_id.encode(), digest_size=16).hexdigest()
        configurable["checkpoint_ns"] = f"{configurable['checkpoint_ns']}|{tool}:{digest}"
        scratchpad = configurable.get("__pregel_scratchpad")
        if scratchpad is not None:
            configurable["__pregel_scratchpad"] = replace(scratchpad, subgraph_counter=lambda: 0)
    return {**config, "configurable": configurable}


def position_of(config: RunnableConfig) -> str:
    """Names-only namespace · Send index · call; ``""`` at top level.

    Read from the config that reaches a graph's entry, where the parent's values still stand: further in,
    twenty identical Sends look alike (LANGGRAPH: Entry, position, cancellation).

    Example:
        >>> position_of({"configurable": {"checkpoint_ns": "research:1f0c|ask:2d1e"},
        ...              "metadata": {"langgraph_path": ("__pregel_push", 3, False)}})
        'research|ask#3'
    """
    configurable: Mapping[str, Any] = config.get("configurable", {})
    namespace = task_namespace(config)
    if not namespace:
        return ""
    names = "|".join(part.split(":")[0] for part in namespace.split("|"))
    path: tuple[Any, ...] = config.get("metadata", {}).get("langgraph_path") or ()
    index = f"#{path[1]}" if len(path) > 1 and path[0] == "__pregel_push" else ""
    call = configurable.get(CALL_KEY)
    return f"{names}{index}{f'@{call}' if call else ''}"


def step_of(config: RunnableConfig) -> int | None:
    """The parent's superstep, or ``None`` at top level."""
    if not task_namespace(config):
        return None
    step = config.get("metadata", {}).get("langgraph_step")
    return int(step) if step is not None else None


def task_namespace(config: RunnableConfig) -> str:
    """Checkpoint namespace that this graph's own checkpoints have; ``""`` at top level.

    From the second graph that one task calls on, LangGraph appends a number. It hands the numbers out when
    a graph starts; here the next one is looked at without taking it.
    """
    configurable: Mapping[str, Any] = config.get("configurable", {})
    if "__pregel_task_id" not in configurable:
        return ""
    namespace = str(configurable.get("checkpoint_ns") or "")
    calls = _calls_before(configurable.get("__pregel_scratchpad"))
    return f"{namespace}|{calls}" if calls else namespace


def _calls_before(scratchpad: Any) -> int:
    counter = getattr(getattr(scratchpad, "subgraph_counter", None), "_counter", None)
    count = getattr(counter, "__self__", None)  # the itertools.count behind the bound __next__
    return int(count.__reduce__()[1][0]) if count is not None else 0
