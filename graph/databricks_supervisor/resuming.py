"""Which question an answer without an id belongs to.

LangGraph gives ``Command(resume=answer)`` to the interrupt that asks next, whatever it asks. A caller that does not
know whether its answer arrived, or a server that starts a killed run again, would answer a question that nobody
has seen. Under a parent the answer is kept with the parent's checkpoint, for as long as the parent's step lasts:
there the answer to one approval would give the next one too. So an answer is for what was pending before it came.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
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
from langgraph.types import Command

__all__ = ["Access", "address_answer", "answer_in_time"]


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


async def address_answer(
    config: RunnableConfig, pending: Collection[str], thread: str, access: Access
) -> RunnableConfig:
    """Under a parent: give the answer to the question that it is for, once, or to none of this graph.

    Args:
        config: The config that reaches the graph's entry.
        pending: Ids of the interrupts that this graph waits for.
        thread: LangGraph's ``thread_id``.
        access: The checkpointer in force.
    """
    configurable = config.get(CONF, {})
    scratchpad = configurable.get(CONFIG_KEY_SCRATCHPAD)
    if scratchpad is None or scratchpad.get_null_resume(False) is None:
        return config
    mine: dict[str, Any] = {}
    root: RunnableConfig = {
        "configurable": {
            "thread_id": thread,
            "checkpoint_ns": "",
            "checkpoint_id": configurable.get(CONFIG_KEY_CHECKPOINT_MAP, {}).get(""),
        }
    }
    shown = _shown(await access.get_tuple(root)) & set(pending)
    if len(shown) == 1 and (answer := scratchpad.get_null_resume(True)) is not None:
        await access.put_writes(root, [(RESUME, None)], NULL_TASK_ID)
        mine = {shown.pop(): answer}
    return patch_configurable(
        config,
        {
            CONFIG_KEY_SCRATCHPAD: replace(scratchpad, get_null_resume=_no_answer),
            CONFIG_KEY_RESUME_MAP: {**(configurable.get(CONFIG_KEY_RESUME_MAP) or {}), **mine},
        },
    )


def _shown(root: CheckpointTuple | None) -> set[str]:
    """Ids of the interrupts that callers of the root were shown last."""
    writes = (root.pending_writes if root is not None else None) or []
    return {found.id for _, channel, value in writes if channel == INTERRUPT for found in value}


def _no_answer(_consume: bool = False) -> None:
    return None
