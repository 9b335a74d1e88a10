"""Where in a thread's graph a run enters: what stays the same when it enters there again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.pregel._algo import LazyAtomicCounter, _xxhash_str

__all__ = ["CALL_KEY", "config_of_call", "placed", "position_of", "step_of", "task_namespace"]

CALL_KEY = "__databricks_supervisor_call"
"""Configurable under which a tool says which call it is, as several run in one task."""

MOST_BRANCHES = 1000
"""Branches of a fan-out further up that can be told apart."""


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


def placed(config: RunnableConfig) -> RunnableConfig:
    """The config for a graph that a task calls: with a namespace of its own, however many the task calls.

    From the second graph that a task calls on, LangGraph appends a number to the namespace. It hands the
    numbers out when a graph starts, and goes on counting when a retry policy runs the task again. Here the
    number is taken at a graph's entry, before anything is awaited: calls at the same time get different ones,
    and each attempt gets the same ones in the same order.
    """
    configurable: Mapping[str, Any] = config.get("configurable", {})
    scratchpad = configurable.get("__pregel_scratchpad")
    if "__pregel_task_id" not in configurable or scratchpad is None:
        return config
    number = _take_number(scratchpad.subgraph_counter, _attempt(configurable))
    namespace = str(configurable.get("checkpoint_ns") or "")
    own = {
        "checkpoint_ns": f"{namespace}|{number}" if number else namespace,
        "__pregel_scratchpad": replace(scratchpad, subgraph_counter=lambda: 0),
    }
    return {**config, "configurable": {**configurable, **own}}


def position_of(config: RunnableConfig) -> str:
    """Names-only namespace · Send index · call; ``""`` at top level.

    Read from the config that reaches a graph's entry, where the parent's values still stand: further in,
    twenty identical Sends look alike (LANGGRAPH: Entry, position, cancellation).

    Example:
        >>> position_of({"configurable": {"checkpoint_ns": "research:1f0c|ask:2d1e", "__pregel_task_id": "2d1e"},
        ...              "metadata": {"langgraph_path": ("__pregel_push", 3, False)}})
        'research|ask#3'
    """
    configurable: Mapping[str, Any] = config.get("configurable", {})
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

    A parent that is a subgraph itself begins at the same step each time. Then it is a number that stands for
    its step and those of the graphs above it.
    """
    if not task_namespace(config):
        return None
    step = config.get("metadata", {}).get("langgraph_step")
    if step is None:
        return None
    above = _steps_above(config.get("configurable", {}).get("__pregel_scratchpad"))
    if not above:
        return int(step)
    digest = hashlib.blake2b(repr([int(step), *above]).encode(), digest_size=4).digest()
    return int.from_bytes(digest) & 0x7FFFFFFF


def task_namespace(config: RunnableConfig) -> str:
    """Checkpoint namespace that this graph's own checkpoints have; ``""`` at top level."""
    configurable: Mapping[str, Any] = config.get("configurable", {})
    return str(configurable.get("checkpoint_ns") or "") if "__pregel_task_id" in configurable else ""


class _Numbers:
    """Hands out numbers, and keeps the first one of each attempt of the task.

    It takes the place of the count inside LangGraph's counter, so that it lives as long as the task does.
    """

    def __init__(self, next_number: Callable[[], int]) -> None:
        self._next = next_number
        self.first: dict[int, int] = {}

    def __call__(self) -> int:
        return self._next()


def _take_number(counter: Any, attempt: int) -> int:
    if not isinstance(counter, LazyAtomicCounter):
        return int(counter())
    if not isinstance(counter._counter, _Numbers):
        counter._counter = _Numbers(counter._counter or count().__next__)
    numbers = counter._counter
    number = numbers()
    first = numbers.first.setdefault(attempt, number)
    return number - first + next(iter(numbers.first.values()))


def _attempt(configurable: Mapping[str, Any]) -> int:
    info = getattr(configurable.get("__pregel_runtime"), "execution_info", None)
    return int(getattr(info, "node_attempt", 1))


def _index(path: Any) -> str:
    """``#3`` for the fourth Send; for a ``@task``, which call of its caller it is, after the caller's own."""
    if not isinstance(path, tuple | list) or len(path) < 3 or path[0] != "__pregel_push":
        return ""
    return f"{_index(path[1])}#{path[2]}" if isinstance(path[1], tuple | list) else f"#{path[1]}"


def _branches_above(namespace: str, configurable: Mapping[str, Any]) -> dict[int, str]:
    """Send indices of the tasks above the parent's, by level of the namespace.

    LangGraph hands on the index of the nearest task alone. The id of every task in the namespace is a digest
    of what it was made from, its index included, so that can be found again.
    """
    checkpoints = configurable.get("checkpoint_map") or {}
    steps = _steps_above(configurable.get("__pregel_scratchpad"))
    found: dict[int, str] = {}
    above = ""
    for level, part in enumerate(namespace.split("|")):
        name, _, task_id = part.partition(":")
        step = steps.pop() if task_id and steps else None
        checkpoint_id = checkpoints.get(above)
        if step is not None and checkpoint_id:
            origin = bytes.fromhex(checkpoint_id.replace("-", ""))
            made_from = (f"{above}|{name}" if above else name, str(step), name, "__pregel_push")
            indices = (i for i in range(MOST_BRANCHES) if _xxhash_str(origin, *made_from, str(i)) == task_id)
            if (index := next(indices, None)) is not None:
                found[level] = f"#{index}"
        above = f"{above}|{part}" if above else part
    return found


def _steps_above(scratchpad: Any) -> list[int]:
    """Supersteps of the graphs above the parent: LangGraph links the scratchpads of their tasks."""
    steps: list[int] = []
    while (ask := getattr(scratchpad, "get_null_resume", None)) is not None:
        names = getattr(getattr(ask, "__code__", None), "co_freevars", ())
        held = dict(zip(names, getattr(ask, "__closure__", None) or (), strict=False))
        scratchpad = held["parent_scratchpad"].cell_contents if "parent_scratchpad" in held else None
        if scratchpad is not None:
            steps.append(int(scratchpad.step))
    return steps
