"""Driving one question, or one thread, to its end or to a person: what all views have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from langgraph.types import Command

from databricks_supervisor.errors import NothingToResumeError

from ..errors import Exit
from .conversation import Conversation, Delivered, Look, Pending
from .view import View, repeats


class Answers(Protocol):
    """Whoever answers what the agent asks."""

    async def __call__(self, pending: Pending) -> dict[str, Any] | None:
        """An answer by id, which may be partial; ``None`` leaves it waiting."""
        ...


@dataclass(frozen=True, slots=True)
class RunResult:
    """How it ended.

    Attributes:
        exit: The exit code.
        look: The thread, at the end.
    """

    exit: Exit
    look: Look


async def drive(conversation: Conversation, question: str | None, view: View, answers: Answers) -> RunResult:
    """Ask a question, or go on with the thread.

    Args:
        conversation: The thread.
        question: The question; ``None`` goes on with what the thread was doing.
        view: Told what happens.
        answers: Asked what the agent wants to know from a person.

    Raises:
        SupervisorError: As the graph raises it.
        NothingToResumeError: The thread is not known.
    """
    now = await conversation.look()
    if question is None:
        if not now.exists:
            raise NothingToResumeError(
                "This thread is not known here. If it was cut off at its very start, ask again with the "
                "question and the same --thread: a job that was submitted is found, not submitted again."
            )
        if now.finished:
            view.finished_before(now.answer)
            return RunResult(Exit.ANSWERED, now)
        if now.pending:
            conversation.prepare()
        else:
            now = await _run(conversation, None, view)
    else:
        if now.pending and now.question != question:
            view.note("What was waiting for your answer is refused: a new question replaces it.")
        now = await _run(conversation, {"messages": [{"role": "user", "content": question}]}, view)
    while now.pending:
        given: dict[str, Any] = {}
        for pending in now.pending:
            view.question(pending.value)
            if (answer := await answers(pending)) is not None:
                given[pending.interrupt_id] = answer
        if not given:
            unknown = any(repeats(pending.value) for pending in now.pending)
            return RunResult(Exit.UNKNOWN if unknown else Exit.WAITING, now)
        view.busy("sending the answer")
        now = await _run(conversation, Command(resume=given), view)
    return RunResult(Exit.ANSWERED, now)


async def _run(conversation: Conversation, given: Any, view: View) -> Look:
    async for happened in conversation.run(given):
        if isinstance(happened, Delivered):
            view.item(happened.item, happened.response_id)
        else:
            view.progress(happened.event)
    return await conversation.look()
