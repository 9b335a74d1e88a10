"""The ledger's interface: turns, effects, and the steps that make each effect happen once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

EffectKind = Literal["submit", "tool", "decision"]


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn that is about to be opened.

    Attributes:
        turn_id: Its id, chosen by the caller or minted.
        thread: LangGraph's ``thread_id``.
        position: Where in the thread's graph the supervisor runs; ``""`` at top level.
        step: The parent's superstep, or ``None`` at top level.
        digest: Digest of the question.
        message_ids: Ids of the question's messages, in order, so that a repeat takes the same ones.
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
    """A turn as the ledger has it. Times are seconds since the epoch, by the ledger's clock.

    Attributes:
        opened_at: When it was opened.
        ended_at: When its end was recorded, or ``None`` while it is open.
        delivered_at: When its end was handed to its caller, where that is not visible in the thread's state.
    """

    opened_at: float = 0.0
    ended_at: float | None = None
    delivered_at: float | None = None


@dataclass(frozen=True, slots=True)
class EffectKey:
    """What makes two side effects the same: turn · round · kind · id."""

    turn_id: str
    round: int
    kind: EffectKind
    id: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """A side effect as the ledger has it.

    Attributes:
        key: Which effect.
        attempt: 1 for the first; one more each time it is taken over on purpose.
        worker: Who claimed this attempt (:func:`~.worker.this_worker`).
        claimed_at: When this attempt was claimed, by the ledger's clock, in seconds since the epoch.
        age: Seconds since ``claimed_at``, by the ledger's clock, when the effect was read.
        outcome: What became of it (JSON), or ``None`` while it is under way.
        mine: True only in the answer to the call that claimed this attempt.
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
        """Id of the job that a submission created, once that is recorded."""
        found = (self.outcome or {}).get("response_id")
        return str(found) if found else None

    @property
    def decision(self) -> dict[str, Any] | None:
        """What was decided, once that is recorded."""
        return self.outcome if self.outcome is not None and "approve" in self.outcome else None


def response_ids(effects: Iterable[Effect]) -> dict[int, str]:
    """Ids of a turn's jobs at the service, by round.

    Args:
        effects: The turn's effects.
    """
    return {
        effect.key.round: effect.response_id
        for effect in effects
        if effect.key.kind == "submit" and effect.response_id is not None
    }


def recorded_decisions(effects: Iterable[Effect]) -> dict[tuple[int, str], dict[str, Any]]:
    """The decisions of a turn that stand by now, by round and id.

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
    """Where turns and effects are kept. Every method is one atomic step."""

    async def open_turn(self, turn: NewTurn, after: str | None = None) -> tuple[Turn, bool]:
        """Open a turn, unless one is open at its (thread, position), or has come there unseen.

        Args:
            turn: The turn.
            after: Id of the turn that was seen as the latest there, ``""`` for none: where another one is by now,
                nothing is opened, though it may have ended. ``None``: whatever came before.

        Returns:
            The turn that is the latest there now, and whether this call opened it.

        Raises:
            TurnMismatchError: The id exists already, elsewhere or ended.
        """
        ...

    async def get_turn(self, turn_id: str) -> Turn | None:
        """The turn of that id."""
        ...

    async def latest_turn(self, thread: str, position: str) -> Turn | None:
        """The turn opened last at (thread, position); an open one before any that ended."""
        ...

    async def open_turns(self, limit: int) -> list[Turn]:
        """Turns that are open, at most ``limit`` of them, the ones opened last first."""
        ...

    async def turns_with_effect(self, kind: EffectKind, id: str) -> list[Turn]:
        """Turns that an effect of this kind and id was ever claimed for, the one opened last first."""
        ...

    async def attach_turn(self, turn_id: str, step: int | None) -> None:
        """Note that the turn is driven from this parent superstep now."""
        ...

    async def end_turn(self, turn_id: str) -> None:
        """Record the end of a turn. The first end stands."""
        ...

    async def mark_delivered(self, turn_id: str) -> None:
        """Note that the turn's end was handed to its caller. The first time stands."""
        ...

    async def claim(self, key: EffectKey, worker: str) -> Effect:
        """Claim an effect, or read what is there.

        Returns:
            The effect, ``mine`` if this call claimed it.

        Raises:
            TurnEndedError: It is not there, and its turn is over or unknown.
        """
        ...

    async def take_over(self, key: EffectKey, attempt: int, worker: str) -> Effect:
        """Claim the attempt after ``attempt``, if that is still the current one and its outcome is not known.

        Where that attempt was given back meanwhile, this is a :meth:`claim`.

        Returns:
            The effect as it is afterwards, ``mine`` if this call claimed the new attempt.

        Raises:
            TurnEndedError: The effect's turn is over or unknown.
        """
        ...

    async def record(self, key: EffectKey, attempt: int, outcome: dict[str, Any]) -> bool:
        """Record the outcome of an attempt, if it is the current one and has none yet.

        An outcome that has the key ``"unknown"`` gives way to a later one of the same attempt: a late answer
        is better than none.

        Returns:
            Whether it was recorded. Recording the same outcome again is ``True``.
        """
        ...

    async def release(self, key: EffectKey, attempt: int) -> bool:
        """Give a claim back: it is proved that nothing happened. Only while there is no outcome.

        The effect is free again; the next claim of it has the next attempt number.

        Returns:
            Whether it was given back.
        """
        ...

    async def get_effect(self, key: EffectKey) -> Effect | None:
        """The effect as it is now."""
        ...

    async def effects(self, turn_id: str) -> list[Effect]:
        """All effects of a turn, in the order in which they were first claimed."""
        ...

    async def delete_thread(self, thread: str) -> None:
        """Forget the thread: its turns and their effects. ``thread`` is matched exactly."""
        ...

    async def aclose(self) -> None:
        """Release connections. The ledger may be used again afterwards."""
        ...
