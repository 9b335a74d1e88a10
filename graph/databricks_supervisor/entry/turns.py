"""Which turn a question belongs to: a new one, one that is running, or one whose end was never delivered."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import BaseMessage

from ..errors import ThreadBusyError, ThreadMovedError, TurnMismatchError
from ..ledger import EffectKey, Ledger, NewTurn, Turn
from ..state import Job


@dataclass(frozen=True, slots=True)
class IncomingQuestion:
    """A question and the place in a thread where it is asked.

    Attributes:
        messages: Its messages, each with an id.
        digest: Digest of what is new in them.
        turn_id: The turn id that the caller chose, or ``None``.
        follows: Id of the turn that the caller saw as the thread's latest, ``""`` for none; ``None`` if it did
            not say.
        thread: LangGraph's ``thread_id``.
        position: Where in the thread's graph the supervisor runs; ``""`` at top level.
        step: The parent's superstep, or ``None`` at top level.
        forked: Whether the caller addressed an older checkpoint.
        identity: Name of the identity that asks.
    """

    messages: list[BaseMessage]
    digest: str
    turn_id: str | None
    follows: str | None
    thread: str
    position: str
    step: int | None
    forked: bool
    identity: str | None


@dataclass(frozen=True, slots=True)
class TurnMatch:
    """The turn of a question.

    Attributes:
        turn: The turn.
        how: ``"new"``; ``"reattach"`` for a turn that the ledger knows and the state does not; ``"resume"`` for
            one that the state knows too.
        messages: The question, with the message ids that the turn was opened with.
        unfinished: Whether the ledger has the end of the turn before, and the state does not have it yet.
    """

    turn: Turn
    how: Literal["new", "reattach", "resume"]
    messages: list[BaseMessage]
    unfinished: bool = False


class Busy(ThreadBusyError):
    """Another question of this thread is still open.

    Attributes:
        turn: The turn of that question.
    """

    def __init__(self, thread: str, turn: Turn) -> None:
        super().__init__(
            f"Thread {thread} is busy with another question (turn {turn.turn_id}). Yours was not added to it. "
            'Wait for the answer, resume the thread, or build the graph with on_busy="wait" or "cancel".'
        )
        self.turn = turn


async def find_or_open_turn(ledger: Ledger, asked: IncomingQuestion, job: Job | None) -> TurnMatch:
    """Find the turn of a question, or open one (docs/guarantees.md: What makes two questions the same).

    Args:
        ledger: The ledger.
        asked: The question.
        job: The job in the thread's latest state, or ``None``.

    Raises:
        Busy: A turn with another question is open here.
        ThreadMovedError: Another turn was opened since the caller, or this call, read the thread.
        TurnMismatchError: The chosen turn id belongs to another thread, position or question.
    """
    latest = await ledger.latest_turn(asked.thread, asked.position)
    if latest is not None and latest.ended_at is None and _ended_in_state(job, latest):
        await ledger.end_turn(
            latest.turn_id
        )  # The process died after it wrote the state and before it wrote the ledger.
        latest = await ledger.get_turn(latest.turn_id)
    known = await _find_turn(ledger, asked, job, latest)
    if known is None:
        new = NewTurn(
            turn_id=asked.turn_id or str(uuid.uuid4()),
            thread=asked.thread,
            position=asked.position,
            step=asked.step,
            digest=asked.digest,
            message_ids=tuple(str(message.id) for message in asked.messages),
            identity=asked.identity,
        )
        turn, opened = await ledger.open_turn(new, after=latest.turn_id if latest is not None else "")
        if opened:
            unfinished = latest is not None and _in_state(job, latest) and not _ended_in_state(job, latest)
            return TurnMatch(turn, "new", asked.messages, unfinished)
        known = turn
    if known.digest != asked.digest:
        raise _moved(asked.thread) if known.ended_at is not None else Busy(asked.thread, known)
    await ledger.attach_turn(known.turn_id, asked.step)
    how: Literal["reattach", "resume"] = "resume" if _in_state(job, known) else "reattach"
    # Under a parent the conversation is the parent's, with the parent's message ids.
    messages = asked.messages if asked.position else _same_ids(asked.messages, known)
    return TurnMatch(known, how, messages)


def new_job(turn_id: str, tools: list[dict[str, Any]]) -> Job:
    """The job of a turn before its first submission.

    Args:
        turn_id: The turn.
        tools: Function tools of the caller.
    """
    return Job(
        turn_id=turn_id,
        round=0,
        response_id=None,
        status="new",
        decisions={},
        tools=tools,
        ended=False,
        failure=None,
    )


async def _find_turn(
    ledger: Ledger, asked: IncomingQuestion, job: Job | None, latest: Turn | None
) -> Turn | None:
    """The turn that this question belongs to, or an open one of another question; ``None`` for a new turn."""
    if asked.turn_id is not None:
        turn = await ledger.get_turn(asked.turn_id)
        if turn is not None:
            if (turn.thread, turn.position, turn.digest) != (asked.thread, asked.position, asked.digest):
                raise TurnMismatchError(
                    f"turn_id {asked.turn_id!r} was used for another thread, place or question. "
                    "Nothing was submitted. Choose an id that is new, or ask that question there."
                )
            return turn
    if asked.follows not in (None, latest.turn_id if latest is not None else ""):
        if latest is None or latest.digest != asked.digest:
            raise _moved(asked.thread)
        return latest  # The same question, sent twice at once: the other request opened the turn.
    if latest is None:
        return None
    if latest.ended_at is None:
        return latest
    if (
        asked.turn_id is None
        and latest.digest == asked.digest
        and not await _end_was_delivered(ledger, asked, job, latest)
    ):
        return latest
    return None


async def _end_was_delivered(ledger: Ledger, asked: IncomingQuestion, job: Job | None, ended: Turn) -> bool:
    """Whether the caller has the end of a turn, so that the same question is a new one."""
    first = await ledger.get_effect(EffectKey(ended.turn_id, 0, "submit"))
    if first is None or first.response_id is None:
        return True  # Nothing was submitted: there is no end to deliver.
    if ended.delivered_at is not None or asked.forked:
        return True
    if asked.step is not None:
        # Under a parent the same step runs again only if the parent lost the child's result.
        return ended.step != asked.step
    return _ended_in_state(job, ended)


def _moved(thread: str) -> ThreadMovedError:
    return ThreadMovedError(
        f"Thread {thread} has gone on since you looked at it. Your question was not added to it. Look again."
    )


def _in_state(job: Job | None, turn: Turn) -> bool:
    return job is not None and job.get("turn_id") == turn.turn_id


def _ended_in_state(job: Job | None, turn: Turn) -> bool:
    return job is not None and _in_state(job, turn) and bool(job.get("ended"))


def _same_ids(messages: list[BaseMessage], turn: Turn) -> list[BaseMessage]:
    """The question with the message ids that the turn was opened with, so that the state has it once."""
    if len(messages) != len(turn.message_ids):
        return messages
    return [
        message.model_copy(update={"id": id}) for message, id in zip(messages, turn.message_ids, strict=True)
    ]
