"""Matches a resume value without an id to its interrupt.

LangGraph gives ``Command(resume=answer)`` to the next interrupt, whichever that is. If a caller repeats an answer, or
a server restarts a killed run, the answer would go to an interrupt that nobody has seen. Under a parent the answer
stays in the parent's checkpoint for the whole step: the answer to one approval would approve the next one too. So an
answer counts only for an interrupt that was pending before it came.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.types import Command

from .langgraph_internals import (
    CONF,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_SCRATCHPAD,
    INTERRUPT,
    NULL_TASK_ID,
    RESUME,
    interrupt_id,
    patch_configurable,
)

_NODES_THAT_ASK = ("submit", "approve", "call_tools")
"""The nodes that raise interrupts."""


@dataclass(frozen=True, slots=True)
class CheckpointAccess:
    """The checkpointer in force, as sync or async callers reach it.

    Attributes:
        saver: The checkpointer, or ``None``.
        get_tuple: As ``BaseCheckpointSaver.aget_tuple``.
        put_writes: As ``BaseCheckpointSaver.aput_writes``.
    """

    saver: BaseCheckpointSaver[Any] | None
    get_tuple: Callable[[RunnableConfig], Awaitable[CheckpointTuple | None]]
    put_writes: Callable[[RunnableConfig, list[tuple[str, Any]], str], Awaitable[None]]


def drop_stale_answer(input: Any, *, interrupted: bool) -> Any:
    """The caller's input, without an answer if no interrupt was pending.

    Example:
        >>> drop_stale_answer(Command(resume=True), interrupted=False) is None
        True
    """
    if interrupted or not isinstance(input, Command) or input.resume is None:
        return input
    rest = replace(input, resume=None)
    return rest if rest.update or rest.goto else None


async def bind_answer(
    config: RunnableConfig, place: RunnableConfig, access: CheckpointAccess
) -> RunnableConfig:
    """Under a parent: give each answer to the interrupt that it is for, once.

    Args:
        config: The config that the parent passes to this graph.
        place: Address of this graph's checkpoints.
        access: The checkpointer.
    """
    configurable = config.get(CONF, {})
    by_id: dict[str, Any] = dict(configurable.get(CONFIG_KEY_RESUME_MAP) or {})
    scratchpad: Any = configurable.get(CONFIG_KEY_SCRATCHPAD)
    is_bare = scratchpad is not None and scratchpad.get_null_resume(False) is not None
    own = await access.get_tuple(place) if is_bare or by_id else None
    asking = _interrupts(own)
    root = _root(configurable, place)
    takes_bare = False
    if is_bare:
        shown = _interrupts(await access.get_tuple(root))
        mine = [id for id in asking if id in shown]
        if len(mine) == 1 and (answer := scratchpad.get_null_resume(True)) is not None:
            takes_bare, by_id[mine[0]] = True, answer
        scratchpad = replace(scratchpad, get_null_resume=_no_answer)
    if own is not None:
        for id in asking.keys() & by_id.keys():
            if await _store_answer(own, asking[id], id, by_id[id], place[CONF]["checkpoint_ns"], access):
                del by_id[id]
    if takes_bare:
        await access.put_writes(root, [(RESUME, None)], NULL_TASK_ID)
    return patch_configurable(config, {CONFIG_KEY_SCRATCHPAD: scratchpad, CONFIG_KEY_RESUME_MAP: by_id})


async def _store_answer(
    own: CheckpointTuple, task: str, id: str, answer: Any, namespace: str, access: CheckpointAccess
) -> bool:
    """Store an answer where LangGraph stores it for a node: another branch's interrupt may end this run first.

    Returns:
        Whether the node finds it there; not if the interrupt came from a graph inside one of the caller's functions.
    """
    found = [value for by, channel, value in own.pending_writes or [] if (by, channel) == (task, RESUME)]
    given = list(found[0]) if found else []
    for node, number in itertools.product(_NODES_THAT_ASK, range(len(given) + 1)):
        if id == interrupt_id(f"{namespace}|{node}:{task}", number):
            if number == len(given):
                await access.put_writes(own.config, [(RESUME, [*given, answer])], task)
            return True
    return False


def _root(configurable: Mapping[str, Any], place: RunnableConfig) -> RunnableConfig:
    """Address of the checkpoint in which LangGraph stores an answer without an id."""
    return {
        CONF: {
            "thread_id": place[CONF]["thread_id"],
            "checkpoint_ns": "",
            "checkpoint_id": (configurable.get(CONFIG_KEY_CHECKPOINT_MAP) or {}).get(""),
        }
    }


def _interrupts(saved: CheckpointTuple | None) -> dict[str, str]:
    """The tasks that raised the pending interrupts, by interrupt id."""
    writes = (saved.pending_writes if saved is not None else None) or []
    return {found.id: task for task, channel, value in writes if channel == INTERRUPT for found in value}


def _no_answer(_consume: bool = False) -> None:
    return None
