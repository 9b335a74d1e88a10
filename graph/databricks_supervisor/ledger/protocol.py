"""The ledger's interface: turns, effects, and the atomic operations on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

EffectKind = Literal["submit", "tool", "decision"]


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn that is about to be opened.

    Attributes:
        turn_id: Its id, chosen by the caller or generated.
        thread: LangGraph's ``thread_id``.
        position: Where in the thread's graph the supervisor runs; ``""`` at top level.
        step: The parent graph's superstep, or ``None`` at top level.
        digest: Digest of the question.
        message_ids: Ids of the question's messages, in order, so that a repetition uses the same ids.
        identity: Name of the identity that asks (never a credential), or ``None``.
    """

    turn_id: str
    thread: str
    position: str
    step: int | None
    digest: str
    message_ids: tuple[str, ...] = ()
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class Turn(NewTurn):
    """A turn as the ledger stores it. Times are seconds since the epoch, by the ledger's clock.

    Attributes:
        opened_at: When it was opened.
        ended_at: When its end was recorded, or ``None`` while it is open.
        delivered_at: When its result was returned to its caller, if the thread's state does not show that.
    """

    opened_at: float = 0.0
    ended_at: float | None = None
    delivered_at: float | None = None


@dataclass(frozen=True, slots=True)
class EffectKey:
    """Identifies a side effect: turn · round · kind · id."""

    turn_id: str
    round: int
    kind: EffectKind
    id: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """A side effect as the ledger stores it.

    Attributes:
        key: Its key.
        attempt: 1 for the first attempt, one more for each later one.
        worker: The process that claimed this attempt (:func:`~.worker.this_worker`).
        claimed_at: When this attempt was claimed, by the ledger's clock, in seconds since the epoch.
        age: Seconds since ``claimed_at``, by the ledger's clock, when the effect was read.
        outcome: Its result (JSON), or ``None`` while it is under way.
        mine: True only in the result of the call that claimed this attempt.
    """

    key: EffectKey
    attempt: int
    worker: str
    claimed_at: float
    age: float
    outcome: dict[str, Any] | None = None
    mine: bool = False

    @property
    def response_id(self) -> str | None:
        """Id of the job that a submission created, once recorded."""
        found = (self.outcome or {}).get("response_id")
        return str(found) if found else None

    @property
    def decision(self) -> dict[str, Any] | None:
        """The decision, once recorded."""
        return self.outcome if self.outcome is not None and "approve" in self.outcome else None


def response_ids(effects: Iterable[Effect]) -> dict[int, str]:
    """Response ids of a turn's jobs, by round.

    Args:
        effects: The turn's effects.
    """
    return {
        effect.key.round: effect.response_id
        for effect in effects
        if effect.key.kind == "submit" and effect.response_id is not None
    }


def recorded_decisions(effects: Iterable[Effect]) -> dict[tuple[int, str], dict[str, Any]]:
    """The recorded decisions of a turn, by round and id.

    Args:
        effects: The turn's effects.
    """
    return {
        (effect.key.round, effect.key.id): effect.decision
        for effect in effects
        if effect.key.kind == "decision" and effect.decision is not None
    }


@runtime_checkable
class Ledger(Protocol):
    """Stores turns and effects. Every method is one atomic step."""

    async def open_turn(self, turn: NewTurn, after: str | None = None) -> tuple[Turn, bool]:
        """Open a turn, unless its (thread, position) has an open turn or one newer than ``after``.

        Args:
            turn: The turn.
            after: Id of the latest turn that the caller has seen there, ``""`` for none. If another turn is the
                latest by now, open or ended, nothing is opened. ``None`` skips this check.

        Returns:
            The latest turn there now, and whether this call opened it.

        Raises:
            TurnMismatchError: The id is taken by a turn that has ended or is elsewhere.
        """
        ...

    async def get_turn(self, turn_id: str) -> Turn | None:
        """The turn with that id."""
        ...

    async def latest_turn(self, thread: str, position: str) -> Turn | None:
        """The open turn at (thread, position), otherwise the one opened last."""
        ...

    async def open_turns(self, limit: int) -> list[Turn]:
        """At most ``limit`` open turns, newest first."""
        ...

    async def turns_with_effect(self, kind: EffectKind, id: str) -> list[Turn]:
        """Turns for which an effect of this kind and id was ever claimed, newest first."""
        ...

    async def attach_turn(self, turn_id: str, step: int | None) -> None:
        """Record the parent superstep that the turn runs in now."""
        ...

    async def end_turn(self, turn_id: str) -> None:
        """Record the end of a turn. Later calls change nothing."""
        ...

    async def mark_delivered(self, turn_id: str) -> None:
        """Record that the turn's result was returned to its caller. Later calls change nothing."""
        ...

    async def claim(self, key: EffectKey, worker: str) -> Effect:
        """Claim an effect, or read it if it is claimed already.

        Returns:
            The effect, ``mine`` if this call claimed it.

        Raises:
            TurnEndedError: It is not claimed, and its turn has ended or is unknown.
        """
        ...

    async def take_over(self, key: EffectKey, attempt: int, worker: str) -> Effect:
        """Claim the attempt after ``attempt``, if that is still the current one and has no final outcome.

        If that attempt was released meanwhile, this is a :meth:`claim`.

        Returns:
            The effect afterwards, ``mine`` if this call claimed the new attempt.

        Raises:
            TurnEndedError: The effect's turn has ended or is unknown.
        """
        ...

    async def record(self, key: EffectKey, attempt: int, outcome: dict[str, Any]) -> bool:
        """Record the outcome of an attempt, if it is the current one and has no final outcome.

        An outcome with the key ``"unknown"`` is not final: a later outcome of the same attempt replaces it.

        Returns:
            Whether it was recorded. Recording the same outcome again is ``True``.
        """
        ...

    async def release(self, key: EffectKey, attempt: int) -> bool:
        """Release a claim without an outcome, when it is certain that nothing happened.

        The effect can be claimed again, with the next attempt number.

        Returns:
            Whether it was released.
        """
        ...

    async def get_effect(self, key: EffectKey) -> Effect | None:
        """The effect, if it is claimed."""
        ...

    async def effects(self, turn_id: str) -> list[Effect]:
        """All claimed effects of a turn, in the order of their first claims."""
        ...

    async def delete_thread(self, thread: str) -> None:
        """Delete the turns of a thread and their effects. ``thread`` is matched exactly."""
        ...

    async def aclose(self) -> None:
        """Close the connections. The ledger may be used again afterwards."""
        ...
