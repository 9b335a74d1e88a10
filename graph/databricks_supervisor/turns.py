"""The rules of entry: is this a new turn, or one that is under way, or one whose end was never delivered?"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import BaseMessage, ToolMessage

from .errors import InvalidInputError, ThreadBusyError, ThreadMovedError, TurnMismatchError
from .items.history import question, question_digest
from .ledger import EffectKey, Ledger, NewTurn, Turn
from .state import Job

__all__ = ["Asked", "Busy", "Entered", "Thread", "checked_id", "enter", "first_job", "read_question"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question at the entry of a run.

    Attributes:
        messages: The input's messages, each with an id.
        digest: Digest of what is new in them.
        turn_id: The turn id that the caller chose, or ``None``.
        follows: Id of the turn that the caller saw as the thread's latest, ``""`` for none; ``None`` if it did
            not say.
    """

    messages: list[BaseMessage]
    digest: str
    turn_id: str | None
    follows: str | None = None


@dataclass(frozen=True, slots=True)
class Thread:
    """Where a run enters, and what the thread's state says.

    Attributes:
        thread: LangGraph's ``thread_id``.
        position: Where in the thread's graph the supervisor runs; ``""`` at top level.
        step: The parent's superstep, or ``None`` at top level.
        job: The job in the thread's latest state, or ``None``.
        forked: Whether the caller addressed an older checkpoint.
        identity: Name of the identity that asks.
    """

    thread: str
    position: str
    step: int | None
    job: Job | None
    forked: bool
    identity: str | None


@dataclass(frozen=True, slots=True)
class Entered:
    """How the run goes on.

    Attributes:
        turn: The turn that it drives.
        how: ``"new"``; ``"again"`` for a turn that the ledger knows and the state does not; ``"resume"`` for
            one that the state knows too.
        messages: The question, with the ids under which the turn keeps it.
        unfinished: Whether the state still lacks the end of the turn before, which the ledger has.
    """

    turn: Turn
    how: Literal["new", "again", "resume"]
    messages: list[BaseMessage]
    unfinished: bool = False


def read_question(messages: Sequence[BaseMessage], turn_id: Any, follows: Any = None) -> Asked:
    """Check the input.

    Raises:
        InvalidInputError: There is no question in it, or a turn id is not one.
    """
    if turn_id is not None:
        checked_id("turn_id", turn_id)
    if follows not in (None, ""):
        checked_id("follows", follows)
    if not any(map(_says_something, question(messages))):
        raise InvalidInputError(
            "The question is empty: give messages with a text, such as "
            '{"messages": [{"role": "user", "content": "…"}]}. Nothing was submitted.'
        )
    for message in messages:
        if not message.id:
            message.id = str(uuid.uuid4())
    return Asked(list(messages), question_digest(messages), turn_id, follows)


def _says_something(message: BaseMessage) -> bool:
    if isinstance(message, ToolMessage):
        return True  # Some functions have nothing to say.
    parts = message.content if isinstance(message.content, list) else []
    return bool(str(message.text).strip()) or any(
        isinstance(part, dict) and part.get("type") not in ("text", "input_text") for part in parts
    )


def checked_id(name: str, value: Any) -> str:
    """An id that every database can keep.

    Raises:
        InvalidInputError: It is no string, empty, or holds what a database's text cannot.
    """
    if isinstance(value, str) and value.strip() and "\x00" not in value:
        try:
            value.encode()
        except UnicodeEncodeError:
            pass
        else:
            return value
    raise InvalidInputError(f"{name} must be a non-empty text; got {value!r}. Nothing was submitted.")


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


async def enter(ledger: Ledger, where: Thread, asked: Asked) -> Entered:
    """Find the turn of a question, or open one (DESIGN: What makes two submissions the same).

    Raises:
        Busy: A turn with another question is open here.
        ThreadMovedError: One came that the caller, or this call, had not seen.
        TurnMismatchError: The chosen turn id belongs to another thread, position or question.
    """
    latest = await ledger.latest_turn(where.thread, where.position)
    if latest is not None and latest.ended_at is None and _ended_in_state(where, latest):
        await ledger.end_turn(latest.turn_id)  # The state had it first; the process died in between.
        latest = await ledger.get_turn(latest.turn_id)
    known = await _known(ledger, where, asked, latest)
    if known is None:
        new = NewTurn(
            turn_id=asked.turn_id or str(uuid.uuid4()),
            thread=where.thread,
            position=where.position,
            step=where.step,
            digest=asked.digest,
            message_ids=tuple(str(message.id) for message in asked.messages),
            identity=where.identity,
        )
        turn, opened = await ledger.open_turn(new, after=latest.turn_id if latest is not None else "")
        if opened:
            unfinished = (
                latest is not None and _in_state(where, latest) and not _ended_in_state(where, latest)
            )
            return Entered(turn, "new", asked.messages, unfinished)
        known = turn
    if known.digest != asked.digest:
        raise _moved(where) if known.ended_at is not None else Busy(where.thread, known)
    await ledger.attach_turn(known.turn_id, where.step)
    how: Literal["again", "resume"] = "resume" if _in_state(where, known) else "again"
    # Under a parent the conversation is the parent's, which has the question under the ids that it gave.
    messages = asked.messages if where.position else _same_ids(asked.messages, known)
    return Entered(known, how, messages)


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


async def _known(ledger: Ledger, where: Thread, asked: Asked, latest: Turn | None) -> Turn | None:
    """The turn that this question belongs to, or that is in its way; ``None`` if it starts a new one."""
    if asked.turn_id is not None:
        turn = await ledger.get_turn(asked.turn_id)
        if turn is not None:
            if (turn.thread, turn.position, turn.digest) != (where.thread, where.position, asked.digest):
                raise TurnMismatchError(
                    f"turn_id {asked.turn_id!r} was used for another thread, place or question. "
                    "Nothing was submitted. Choose an id that is new, or ask that question there."
                )
            return turn
    if asked.follows not in (None, latest.turn_id if latest is not None else ""):
        if latest is None or latest.digest != asked.digest:
            raise _moved(where)
        return latest  # The same, pressed twice: the other one was quicker.
    if latest is None:
        return None
    if latest.ended_at is None:
        return latest
    if asked.turn_id is None and latest.digest == asked.digest and not await _reached(ledger, where, latest):
        return latest
    return None


async def _reached(ledger: Ledger, where: Thread, ended: Turn) -> bool:
    """Whether the end of a turn reached its caller, so that the same question is a new one."""
    first = await ledger.get_effect(EffectKey(ended.turn_id, 0, "submit"))
    if first is None or "response_id" not in (first.outcome or {}):
        return True  # Nothing was ever submitted: there is no end to deliver.
    if ended.delivered_at is not None or where.forked:
        return True
    if where.step is not None:
        # Under a parent: the same step runs again only if the parent lost what the child returned.
        return ended.step != where.step
    return _ended_in_state(where, ended)


def _moved(where: Thread) -> ThreadMovedError:
    return ThreadMovedError(
        f"Thread {where.thread} has gone on since you looked at it. Your question was not added to it. Look again."
    )


def _in_state(where: Thread, turn: Turn) -> bool:
    return where.job is not None and where.job.get("turn_id") == turn.turn_id


def _ended_in_state(where: Thread, turn: Turn) -> bool:
    return _in_state(where, turn) and where.job is not None and bool(where.job.get("ended"))


def _same_ids(messages: list[BaseMessage], turn: Turn) -> list[BaseMessage]:
    """The question under the ids that the turn keeps it under, so that it is not kept twice."""
    if len(messages) != len(turn.message_ids):
        return messages
    return [
        message.model_copy(update={"id": kept})
        for message, kept in zip(messages, turn.message_ids, strict=True)
    ]
