"""What is seen of a simulated world: requests, interrupts, answers and runs; and its two client-side functions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from langchain_core.tools import InjectedToolCallId, tool
from langgraph.types import Interrupt

from databricks_supervisor import errors
from tests.support.simulation.killable_process import CURRENT, Process

CONFIG: Any = {"configurable": {"thread_id": "thread"}}
NEVER_ASKED = "lookup"
"""The hosted tool that the policy approves without asking a person."""


@tool
async def note(text: str, call_id: Annotated[str, InjectedToolCallId]) -> str:
    """Write something down."""
    await CURRENT.get().run(call_id)
    return f"noted {text}"


@tool
async def stumble(text: str, call_id: Annotated[str, InjectedToolCallId]) -> str:
    """Write something down, and fail."""
    await CURRENT.get().run(call_id)
    raise ValueError(text)


@dataclass(frozen=True)
class Post:
    """A create request that was, or may have been, sent."""

    turn_id: str
    round: int
    attempt: int
    questions: tuple[str, ...]
    decisions: dict[str, tuple[bool, str | None]]
    response_id: str | None


@dataclass(frozen=True)
class Shown:
    """An interrupt, as a person saw it."""

    interrupt: Interrupt
    turn_id: str
    round: int

    @property
    def kind(self) -> str:
        kind: str = self.interrupt.value["kind"]
        return kind

    @property
    def ids(self) -> list[str]:
        ids: list[str] = self.interrupt.value["ids"]
        return ids


@dataclass(frozen=True)
class Given:
    """An answer of a person: what it says about which question.

    Attributes:
        shown: The question that it answers.
        decisions: What it says, by id; empty if it says nothing that may be acted on.
        by_position: What it says of whatever is pending when it arrives, if it names no ids.
    """

    shown: Shown
    decisions: dict[str, bool]
    by_position: tuple[bool, ...] = ()


@dataclass(eq=False)
class GraphRun:
    """One run of the graph, by one process.

    Attributes:
        what: ``ask``, ``resume`` or ``answer``.
        text: The question's text.
        given: The answer.
        nothing_on_disk: Whether its thread had no checkpoint when it began.
        fresh: Whether the answer is to what was pending when it was given.
        overlapped: Whether another run was alive at the same time.
    """

    what: str
    process: Process
    task: asyncio.Task[Any]
    text: str = ""
    on_busy: str = "reject"
    given: Given | None = None
    nothing_on_disk: bool = False
    fresh: bool = False
    overlapped: bool = False
    cancelled: bool = False
    judged: bool = False

    @property
    def alive(self) -> bool:
        return not self.task.done()

    @property
    def rejected(self) -> bool:
        return (
            not self.alive
            and not self.task.cancelled()
            and isinstance(self.task.exception(), errors.ThreadBusyError)
        )


@dataclass
class Policies:
    """Settings that all processes share."""

    on_unknown: str = "ask"
    on_failure: str = "raise"
    durability: str = "sync"
