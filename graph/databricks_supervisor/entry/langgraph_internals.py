"""Everything private that is used of LangGraph, in one place: what to look at when a new release comes out.

The names are imported from LangGraph's private modules here and nowhere else; what is read out of its private
objects is read by the functions below. Written against LangGraph 1.2 (``pyproject.toml`` has the bounds).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from langgraph._internal._config import ensure_config, patch_configurable
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_TASK_ID,
    INTERRUPT,
    NULL_TASK_ID,
    PUSH,
    RESUME,
)
from langgraph.pregel._algo import LazyAtomicCounter
from langgraph.pregel._algo import _xxhash_str as task_digest
from langgraph.types import _interrupt_id as interrupt_id

__all__ = [
    "CONF",
    "CONFIG_KEY_CHECKPOINT_ID",
    "CONFIG_KEY_CHECKPOINT_MAP",
    "CONFIG_KEY_CHECKPOINT_NS",
    "CONFIG_KEY_RESUME_MAP",
    "CONFIG_KEY_RESUMING",
    "CONFIG_KEY_RUNTIME",
    "CONFIG_KEY_SCRATCHPAD",
    "CONFIG_KEY_TASK_ID",
    "INTERRUPT",
    "NULL_TASK_ID",
    "PUSH",
    "RESUME",
    "ensure_config",
    "interrupt_id",
    "node_attempt",
    "parent_steps",
    "patch_configurable",
    "take_subgraph_number",
    "task_digest",
]


def parent_steps(scratchpad: Any) -> list[int]:
    """Supersteps of the graphs above the parent: LangGraph links the scratchpads of their tasks in a closure."""
    steps: list[int] = []
    while (get_null_resume := getattr(scratchpad, "get_null_resume", None)) is not None:
        names = getattr(getattr(get_null_resume, "__code__", None), "co_freevars", ())
        held = dict(zip(names, getattr(get_null_resume, "__closure__", None) or (), strict=False))
        scratchpad = held["parent_scratchpad"].cell_contents if "parent_scratchpad" in held else None
        if scratchpad is not None:
            steps.append(int(scratchpad.step))
    return steps


def node_attempt(configurable: Mapping[str, Any]) -> int:
    """Which attempt of the parent's task this is: a retry policy may run it again."""
    info = getattr(configurable.get(CONFIG_KEY_RUNTIME), "execution_info", None)
    return int(getattr(info, "node_attempt", 1))


class _Numbers:
    """Hands out numbers, and keeps the first one of each attempt of the task.

    It takes the place of the count inside LangGraph's counter, so that it lives as long as the task does.
    """

    def __init__(self, next_number: Callable[[], int]) -> None:
        self._next = next_number
        self.first: dict[int, int] = {}

    def __call__(self) -> int:
        return self._next()


def take_subgraph_number(subgraph_counter: Any, attempt: int) -> int:
    """The next number of a subgraph of a task; each attempt of the task gets the same ones in the same order."""
    if not isinstance(subgraph_counter, LazyAtomicCounter):
        return int(subgraph_counter())
    if not isinstance(subgraph_counter._counter, _Numbers):
        subgraph_counter._counter = _Numbers(subgraph_counter._counter or count().__next__)
    numbers = subgraph_counter._counter
    number = numbers()
    first = numbers.first.setdefault(attempt, number)
    return number - first + next(iter(numbers.first.values()))
