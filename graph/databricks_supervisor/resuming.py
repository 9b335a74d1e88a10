"""Which question an answer without an id belongs to.

LangGraph gives ``Command(resume=answer)`` to the interrupt that asks next, whatever it asks. A caller that does not
know whether its answer arrived, or a server that starts a killed run again, would answer a question that nobody
has seen. Under a parent the answer is kept with the parent's checkpoint, for as long as the parent's step lasts:
there the answer to one approval would give the next one too. So an answer is for what was pending before it came.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph._internal._config import patch_configurable
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_SCRATCHPAD,
    INTERRUPT,
    NULL_TASK_ID,
    RESUME,
)
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.types import Command, _interrupt_id

__all__ = ["Access", "address_answer", "answer_in_time"]

_ASKING = ("submit", "approve", "call_tools")
"""The nodes that ask."""


@dataclass(frozen=True, slots=True)
class Access:
    """A checkpointer, as one face of the graph reaches it.

    Attributes:
        get_tuple: As ``BaseCheckpointSaver.aget_tuple``.
        put_writes: As ``BaseCheckpointSaver.aput_writes``.
    """

    get_tuple: Callable[[RunnableConfig], Awaitable[CheckpointTuple | None]]
    put_writes: Callable[[RunnableConfig, list[tuple[str, Any]], str], Awaitable[None]]


def answer_in_time(input: Any, *, interrupted: bool) -> Any:
    """A caller's input without an answer that nothing was waiting for.

    Example:
        >>> answer_in_time(Command(resume=True), interrupted=False) is None
        True
    """
    if interrupted or not isinstance(input, Command) or input.resume is None:
        return input
    rest = replace(input, resume=None)
    return rest if rest.update or rest.goto else None


async def address_answer(config: RunnableConfig, place: RunnableConfig, access: Access) -> RunnableConfig:
    """Under a parent: give the answer to the question that it is for, once, or to none of this graph.

    Args:
        config: The config that reaches the graph's entry.
        place: Where this graph's checkpoints are.
        access: The checkpointer in force.
    """
    configurable = config.get(CONF, {})
    scratchpad = configurable.get(CONFIG_KEY_SCRATCHPAD)
    if scratchpad is None or scratchpad.get_null_resume(False) is None:
        return config
    by_id: dict[str, Any] = {}
    root: RunnableConfig = {
        CONF: {
            "thread_id": place[CONF]["thread_id"],
            "checkpoint_ns": "",
            "checkpoint_id": configurable.get(CONFIG_KEY_CHECKPOINT_MAP, {}).get(""),
        }
    }
    shown, own = _interrupts(await access.get_tuple(root)), await access.get_tuple(place)
    asking = _interrupts(own)
    mine = [id for id in asking if id in shown]
    if own is not None and len(mine) == 1 and (answer := scratchpad.get_null_resume(True)) is not None:
        task, given = asking[mine[0]], _answers(own, asking[mine[0]])
        slot = _slot(mine[0], place[CONF]["checkpoint_ns"], task, len(given))
        if slot is None:  # A graph that one of the caller's functions runs asked it.
            by_id = {mine[0]: answer}
        elif slot == len(given):
            # Kept as LangGraph keeps it, so that it is not lost if a neighbour's question ends this run.
            await access.put_writes(own.config, [(RESUME, [*given, answer])], task)
        await access.put_writes(root, [(RESUME, None)], NULL_TASK_ID)
    return patch_configurable(
        config,
        {
            CONFIG_KEY_SCRATCHPAD: replace(scratchpad, get_null_resume=_no_answer),
            CONFIG_KEY_RESUME_MAP: {**(configurable.get(CONFIG_KEY_RESUME_MAP) or {}), **by_id},
        },
    )


def _interrupts(saved: CheckpointTuple | None) -> dict[str, str]:
    """The tasks that asked last, by the ids of their interrupts."""
    writes = (saved.pending_writes if saved is not None else None) or []
    return {found.id: task for task, channel, value in writes if channel == INTERRUPT for found in value}


def _answers(saved: CheckpointTuple, task: str) -> list[Any]:
    """The answers that a task was given."""
    found = [value for id, channel, value in saved.pending_writes or [] if (id, channel) == (task, RESUME)]
    return list(found[0]) if found else []


def _slot(id: str, namespace: str, task: str, given: int) -> int | None:
    """Which of a task's questions an interrupt is, by number; ``None`` if it is another graph's."""
    for node, number in itertools.product(_ASKING, range(given + 1)):
        if id == _interrupt_id(f"{namespace}|{node}:{task}", number):
            return number
    return None


def _no_answer(_consume: bool = False) -> None:
    return None
