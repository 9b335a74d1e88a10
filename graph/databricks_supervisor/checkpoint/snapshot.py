"""Reads a thread's latest checkpoint, without running the graph."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import CheckpointTuple

from ..state import Job, SupervisorState

_STORED_TRIES = 100
_STORED_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A thread at one checkpoint.

    Attributes:
        exists: Whether there is a checkpoint.
        foreign: Whether another graph wrote it.
        job: The job in it, or ``None``.
        messages: The conversation in it.
        interrupted: Whether it waits for the answer to an interrupt. Stays true while the answer is processed,
            until the task writes its result or another interrupt.
    """

    exists: bool = False
    foreign: bool = False
    job: Job | None = None
    messages: list[BaseMessage] = field(default_factory=list)
    interrupted: bool = False

    def has(self, turn_id: str) -> bool:
        """Whether its job belongs to this turn."""
        return self.job is not None and self.job.get("turn_id") == turn_id

    @property
    def state(self) -> SupervisorState | None:
        """The state, if it has a job."""
        return SupervisorState(messages=cast(Any, self.messages), job=self.job) if self.job else None


async def wait_until_stored(read: Callable[[], Awaitable[Snapshot]], turn_id: str) -> bool:
    """Wait, about 2 s at most, until a turn's question is in a checkpoint.

    Args:
        read: Reads the thread's latest checkpoint.
        turn_id: The turn.

    Returns:
        Whether it is there. (The ledger has the turn in any case.)
    """
    for _ in range(_STORED_TRIES):
        if (await read()).has(turn_id):
            return True
        await asyncio.sleep(_STORED_EVERY_S)
    return False


def snapshot_of(saved: CheckpointTuple | None, channels: Collection[str]) -> Snapshot:
    """Read a checkpoint. Input that no node has processed yet counts as state.

    Args:
        saved: The checkpoint, or ``None``.
        channels: Names of this graph's channels.
    """
    if saved is None:
        return Snapshot()
    values = saved.checkpoint["channel_values"]
    start = values.get("__start__")
    new: Mapping[str, Any] = start if isinstance(start, Mapping) else {}
    job = new.get("job") or values.get("job")
    versions = saved.checkpoint["channel_versions"]
    writes = saved.pending_writes or []
    return Snapshot(
        exists=bool(versions),
        foreign=job is None and any(name not in channels for name in versions),
        job=job,
        messages=[*values.get("messages", []), *new.get("messages", [])],
        interrupted=any(channel == "__interrupt__" for _, channel, _ in writes),
    )
