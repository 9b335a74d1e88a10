"""One thread of the graph, as the command line uses it: read it, run it, and show what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any, cast

from langchain_core.messages import BaseMessage

from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.items import items_from_message
from databricks_supervisor.ledger import Ledger, response_ids

from ..threads import ThreadReader, ThreadSnapshot, config_of
from .text import text_of
from .view import View


class Conversation:
    """A thread, by LangGraph's id of it."""

    def __init__(self, graph: CompiledSupervisorGraph, ledger: Ledger, thread_id: str) -> None:
        self._graph = graph
        self._reader = ThreadReader(graph, ledger)
        self._thread_id = thread_id
        self._response_id: str | None = None

    async def read(self) -> ThreadSnapshot:
        """The thread as it is now; raises as :meth:`ThreadReader.read`."""
        return await self._reader.read(self._thread_id)

    def prepare(self) -> None:
        """Build the client in the background, while a person reads."""
        self._preparing = asyncio.ensure_future(self._graph.parts.clients.get(None))
        self._preparing.add_done_callback(lambda built: built.cancelled() or built.exception())

    async def run(self, input: Any, view: View) -> ThreadSnapshot:
        """Run the graph until it ends or waits for a person; the thread as it is then.

        Args:
            input: A question, a resume command, or ``None`` to go on.
        """
        stream = self._graph.astream(input, config_of(self._thread_id), stream_mode=["custom", "updates"])
        async with aclosing(cast(Any, stream)) as chunks:
            async for mode, chunk in chunks:
                if mode == "updates":
                    for message in _messages_in(chunk):
                        for item in items_from_message(message):
                            view.item(item, self._job_of(message))
                elif isinstance(chunk, dict) and chunk.get("type") == "supervisor.progress":
                    self._response_id = chunk["response_id"]
                    view.progress(chunk)
        return await self.read()

    def _job_of(self, message: BaseMessage) -> str | None:
        """The job of a message: its id names it if the job delivered it; otherwise it belongs to the last job."""
        job, _, index = (message.id or "").rpartition(":")
        return job if job and index.isdigit() else self._response_id


def is_finished(thread: ThreadSnapshot) -> bool:
    """Whether the turn is over, and its failure was raised if it has one.

    LangGraph's ``next`` does not tell: it is empty also while writes are pending.
    """
    job = thread.job
    if job is None or not job.get("ended") or thread.interrupts:
        return False
    failure = job.get("failure")
    return failure is None or failure.get("said", False)


def job_id(thread: ThreadSnapshot) -> str | None:
    """Id of the thread's job at the service, also if only the ledger has it yet."""
    if thread.job is None:
        return None
    recorded = {} if thread.own_job is None else response_ids(thread.effects)
    return thread.job.get("response_id") or recorded.get(thread.job["round"])


def last_exchange(thread: ThreadSnapshot) -> tuple[str, str]:
    """The last question, and everything that was said to it so far."""
    question = ""
    answer: list[str] = []
    for message in thread.messages:
        for item in items_from_message(message):
            text = text_of(item.get("content")) if item.get("type", "message") == "message" else ""
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
