"""Runs one question, or one thread, to its end or until a person is needed: what all views have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from langgraph.types import Command

from databricks_supervisor.errors import NothingToResumeError

from ..errors import Exit
from ..threads import PendingInterrupt, ThreadSnapshot
from .conversation import Conversation, is_finished, last_exchange
from .view import View, repeats


class Answers(Protocol):
    """Answers what the agent asks."""

    async def __call__(self, pending: PendingInterrupt) -> dict[str, Any] | None:
        """An answer by id, which may be partial; ``None`` if there is none for now."""
        ...


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        exit: The exit code.
        thread: The thread, at the end.
    """

    exit: Exit
    thread: ThreadSnapshot


async def run_thread(
    conversation: Conversation, question: str | None, view: View, answers: Answers
) -> RunResult:
    """Ask a question, or go on with the thread.

    Args:
        question: The question; ``None`` goes on with what the thread was doing.
        answers: Answers what the agent asks people.

    Raises:
        SupervisorError: As the graph raises it; also if the thread is not known.
    """
    thread = await conversation.read()
    if question is None:
        if not thread.exists:
            raise NothingToResumeError(
                "This thread is not known here. If it was cut off at its very start, ask again with the "
                "question and the same --thread: a job that was submitted is found, not submitted again."
            )
        if is_finished(thread):
            view.finished_before(last_exchange(thread)[1])
            return RunResult(Exit.ANSWERED, thread)
        if thread.interrupts:
            conversation.prepare()
        else:
            thread = await conversation.run(None, view)
    else:
        if thread.interrupts and last_exchange(thread)[0] != question:
            view.note("What was waiting for your answer is refused: a new question replaces it.")
        thread = await conversation.run({"messages": [{"role": "user", "content": question}]}, view)
    while thread.interrupts:
        given: dict[str, Any] = {}
        for pending in thread.interrupts:
            view.question(pending.value)
            if (answer := await answers(pending)) is not None:
                given[pending.interrupt_id] = answer
        if not given:
            unknown = any(repeats(pending.value) for pending in thread.interrupts)
            return RunResult(Exit.UNKNOWN if unknown else Exit.WAITING, thread)
        view.busy("sending the answer")
        thread = await conversation.run(Command(resume=given), view)
    return RunResult(Exit.ANSWERED, thread)
