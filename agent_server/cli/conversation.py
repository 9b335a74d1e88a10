"""One thread of the graph, as the command line sees it: look at it, run it, read what it delivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from databricks_supervisor import Job, SupervisorInterrupt
from databricks_supervisor.checkpoint.snapshot import snapshot_of
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import ForeignThreadError
from databricks_supervisor.items import Item, items_from_message
from databricks_supervisor.ledger import EffectKey, Ledger


@dataclass(frozen=True, slots=True)
class Progressed:
    """How the job stands.

    Attributes:
        event: The library's progress event.
    """

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delivered:
    """An item that is new in the thread.

    Attributes:
        item: The Responses item.
        response_id: The job that it belongs to.
    """

    item: Item
    response_id: str | None


@dataclass(frozen=True, slots=True)
class Pending:
    """A question to a person.

    Attributes:
        interrupt_id: LangGraph's id, to answer it by.
        value: What is asked.
    """

    interrupt_id: str
    value: SupervisorInterrupt


@dataclass(frozen=True, slots=True)
class Look:
    """A thread as its latest checkpoint has it.

    Attributes:
        exists: Whether there is a checkpoint.
        finished: Whether nothing is left to do.
        pending: What waits for a person.
        question: The last question, as text.
        answer: Everything that was said to it so far.
        job: The job in the state.
    """

    exists: bool = False
    finished: bool = False
    pending: list[Pending] = field(default_factory=list)
    question: str = ""
    answer: str = ""
    job: Job | None = None

    @property
    def response_id(self) -> str | None:
        """Id of the job at the service."""
        return self.job.get("response_id") if self.job else None


class Conversation:
    """A thread.

    Args:
        graph: The compiled graph, with its checkpointer.
        ledger: The graph's ledger.
        thread_id: LangGraph's thread id.
    """

    def __init__(self, graph: CompiledSupervisorGraph, ledger: Ledger, thread_id: str) -> None:
        self._graph = graph
        self._ledger = ledger
        self._thread_id = thread_id
        self._config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
        self._response_id: str | None = None

    async def look(self) -> Look:
        """Read the thread's latest checkpoint.

        Raises:
            ForeignThreadError: Another graph wrote it.
        """
        saved = await cast(Any, self._graph.checkpointer).aget_tuple(self._config)
        snapshot = snapshot_of(saved, self._graph.channels)
        if snapshot.foreign:
            raise ForeignThreadError(
                f"Thread {self._thread_id} belongs to another graph. Nothing was changed. Use another thread id."
            )
        if not snapshot.exists:
            return Look()
        state = await self._graph.aget_state(self._config)
        question, answer = _last_turn(snapshot.messages)
        return Look(
            exists=True,
            finished=_is_finished(snapshot.job) and not state.interrupts,
            pending=[Pending(each.id, each.value) for each in state.interrupts],
            question=question,
            answer=answer,
            job=snapshot.job,
        )

    async def submitted(self, look: Look) -> str | None:
        """Id of the job that runs for the thread, also when the state does not have it yet."""
        if look.job is None or look.response_id is not None:
            return look.response_id
        key = EffectKey(look.job["turn_id"], look.job["round"], "submit")
        effect = await self._ledger.get_effect(key)
        found = (effect.outcome or {}).get("response_id") if effect is not None else None
        return str(found) if found else None

    def prepare(self) -> None:
        """Build the client in the background, while a person reads."""
        self._preparing = asyncio.ensure_future(self._graph.parts.clients.get(None))
        self._preparing.add_done_callback(lambda built: built.cancelled() or built.exception())

    async def run(self, given: Any) -> AsyncIterator[Progressed | Delivered]:
        """Run the graph until it ends or waits, and tell what happens.

        Args:
            given: A question, a resume command, or ``None`` to go on.
        """
        stream = self._graph.astream(given, self._config, stream_mode=["custom", "updates"])
        async with aclosing(cast(Any, stream)) as chunks:
            async for mode, chunk in chunks:
                if mode == "custom":
                    if isinstance(chunk, dict) and chunk.get("type") == "supervisor.progress":
                        self._response_id = chunk["response_id"]
                        yield Progressed(chunk)
                    continue
                for message in _messages_in(chunk):
                    for item in items_from_message(message):
                        yield Delivered(item, self._job_of(message))

    def _job_of(self, message: BaseMessage) -> str | None:
        """The job of a message: a delivered one is named after it, one of this side belongs to the last."""
        job, _, index = (message.id or "").rpartition(":")
        return job if job and index.isdigit() else self._response_id


def text_of(item: Item) -> str:
    """The text of a message item, refusals included; ``""`` for an item of any other type."""
    if item.get("type", "message") != "message":
        return ""
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "\n\n".join(text for part in parts if (text := str(part.get("text") or part.get("refusal") or "")))


def _is_finished(job: Job | None) -> bool:
    """Whether the turn is over and all of it was said. (LangGraph's ``next`` is empty also while writes wait.)"""
    failure = job.get("failure") if job else None
    return job is not None and bool(job.get("ended")) and (failure is None or failure.get("said", False))


def _last_turn(messages: Sequence[BaseMessage]) -> tuple[str, str]:
    question = ""
    answer: list[str] = []
    for message in messages:
        for item in items_from_message(message):
            text = text_of(item)
            if item.get("role") == "user":
                question, answer = text, []
            elif text and item.get("role") == "assistant":
                answer.append(text)
    return question, "\n\n".join(answer)


def _messages_in(update: Any) -> Iterator[BaseMessage]:
    for changed in update.values() if isinstance(update, dict) else ():
        for each in changed if isinstance(changed, list | tuple) else [changed]:
            messages = each.get("messages") if isinstance(each, dict) else None
            yield from (message for message in messages or () if isinstance(message, BaseMessage))
