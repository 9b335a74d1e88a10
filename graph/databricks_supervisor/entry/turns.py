"""The rules of entry: is this a new turn, or one that is under way, or one whose end was never delivered?"""

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
    """A question, and the place in a thread where it comes in.

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
    """How the run goes on.

    Attributes:
        turn: The turn that it drives.
        how: ``"new"``; ``"reattach"`` for a turn that the ledger knows and the state does not; ``"resume"`` for
            one that the state knows too.
        messages: The question, with the ids under which the turn keeps it.
        unfinished: Whether the state still lacks the end of the turn before, which the ledger has.
    """

    turn: Turn
    how: Literal["new", "reattach", "resume"]
    messages: list[BaseMessage]
    unfinished: bool = False


class Busy(ThreadBusyError):
    """Another question of this thread is under way.

    Attributes:
        turn: The turn that is in the way.
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
        ThreadMovedError: One came that the caller, or this call, had not seen.
        TurnMismatchError: The chosen turn id belongs to another thread, position or question.
    """
    latest = await ledger.latest_turn(asked.thread, asked.position)
    if latest is not None and latest.ended_at is None and _ended_in_state(job, latest):
        await ledger.end_turn(latest.turn_id)  # The state had it first; the process died in between.
        latest = await ledger.get_turn(latest.turn_id)
    known = await _known(ledger, asked, job, latest)
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
    # Under a parent the conversation is the parent's, which has the question under the ids that it gave.
    messages = asked.messages if asked.position else _same_ids(asked.messages, known)
    return TurnMatch(known, how, messages)


def first_job(turn_id: str, tools: list[dict[str, Any]]) -> Job:
    """The job of a turn that nothing was submitted for yet.

    Args:
        turn_id: The turn.
        tools: Function tools of whoever asks.
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


async def _known(
    ledger: Ledger, asked: IncomingQuestion, job: Job | None, latest: Turn | None
) -> Turn | None:
    """The turn that this question belongs to, or that is in its way; ``None`` if it starts a new one."""
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
        return latest  # The same, pressed twice: the other one was quicker.
    if latest is None:
        return None
    if latest.ended_at is None:
        return latest
    if (
        asked.turn_id is None
        and latest.digest == asked.digest
        and not await _reached(ledger, asked, job, latest)
    ):
        return latest
    return None


async def _reached(ledger: Ledger, asked: IncomingQuestion, job: Job | None, ended: Turn) -> bool:
    """Whether the end of a turn reached its caller, so that the same question is a new one."""
    first = await ledger.get_effect(EffectKey(ended.turn_id, 0, "submit"))
    if first is None or first.response_id is None:
        return True  # Nothing was ever submitted: there is no end to deliver.
    if ended.delivered_at is not None or asked.forked:
        return True
    if asked.step is not None:
        # Under a parent: the same step runs again only if the parent lost what the child returned.
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
    """The question under the ids that the turn keeps it under, so that it is not kept twice."""
    if len(messages) != len(turn.message_ids):
        return messages
    return [
        message.model_copy(update={"id": kept})
        for message, kept in zip(messages, turn.message_ids, strict=True)
    ]
