"""The ledger in memory: for in-memory checkpoints, and for tests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from .protocol import Effect, EffectKey, EffectKind, Ledger, NewTurn, Turn
from .rows import is_final, is_id_taken, prevents_opening, to_json, turn_ended, turn_mismatch


@dataclass(slots=True)
class _Row:
    """An effect; without a worker, a released claim (its attempt number is not used again)."""

    attempt: int
    worker: str | None
    claimed_at: float
    outcome: str | None = None
    settled: bool = False


class MemoryLedger(Ledger):
    """A :class:`~databricks_supervisor.ledger.Ledger` in the memory of this process.

    It may be used from several threads and event loops.

    Args:
        clock: Returns the time, in seconds since the epoch.

    Example:
        >>> import asyncio
        >>> from databricks_supervisor.ledger import EffectKey, MemoryLedger, NewTurn
        >>> async def main():
        ...     ledger = MemoryLedger()
        ...     await ledger.open_turn(NewTurn("turn-1", "thread-1", "", None, "digest"))
        ...     key = EffectKey("turn-1", 0, "submit")
        ...     return [(await ledger.claim(key, worker)).mine for worker in ("a", "b")]
        >>> asyncio.run(main())
        [True, False]
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._turns: dict[str, Turn] = {}
        self._turn_ids: dict[str, dict[str, list[str]]] = {}  # thread -> position -> turn ids, oldest first
        self._effects: dict[str, dict[EffectKey, _Row]] = {}  # turn id -> effects, in order of first claims

    def __repr__(self) -> str:
        return "MemoryLedger()"

    async def open_turn(self, turn: NewTurn, after: str | None = None) -> tuple[Turn, bool]:
        with self._lock:
            known = self._turns.get(turn.turn_id)
            if known is not None and is_id_taken(turn, known):
                raise turn_mismatch(turn, known)
            latest = self._latest(turn.thread, turn.position)
            if latest is not None and prevents_opening(latest, after):
                return latest, False
            values = {field.name: getattr(turn, field.name) for field in fields(NewTurn)}
            opened = Turn(**values, opened_at=self._clock())
            self._turns[turn.turn_id] = opened
            self._turn_ids.setdefault(turn.thread, {}).setdefault(turn.position, []).append(turn.turn_id)
            return opened, True

    async def get_turn(self, turn_id: str) -> Turn | None:
        with self._lock:
            return self._turns.get(turn_id)

    async def latest_turn(self, thread: str, position: str) -> Turn | None:
        with self._lock:
            return self._latest(thread, position)

    async def open_turns(self, limit: int) -> list[Turn]:
        with self._lock:
            found = [turn for turn in self._turns.values() if turn.ended_at is None]
            return sorted(found, key=lambda turn: turn.opened_at, reverse=True)[:limit]

    async def turns_with_effect(self, kind: EffectKind, id: str) -> list[Turn]:
        with self._lock:
            found = [
                self._turns[turn_id]
                for turn_id, keys in self._effects.items()
                if any((key.kind, key.id) == (kind, id) for key in keys)
            ]
            return sorted(found, key=lambda turn: turn.opened_at, reverse=True)

    async def attach_turn(self, turn_id: str, step: int | None) -> None:
        with self._lock:
            self._change(turn_id, step=step)

    async def end_turn(self, turn_id: str) -> None:
        with self._lock:
            if self._is_open(turn_id):
                self._change(turn_id, ended_at=self._clock())

    async def mark_delivered(self, turn_id: str) -> None:
        with self._lock:
            turn = self._turns.get(turn_id)
            if turn is not None and turn.delivered_at is None:
                self._change(turn_id, delivered_at=self._clock())

    async def claim(self, key: EffectKey, worker: str) -> Effect:
        with self._lock:
            return self._claim(key, worker)

    async def take_over(self, key: EffectKey, attempt: int, worker: str) -> Effect:
        with self._lock:
            if not self._is_open(key.turn_id):
                raise turn_ended(key)
            row = self._row(key)
            if row is None or row.attempt != attempt or row.settled:
                return self._claim(key, worker)
            return self._assign(key, row, worker)

    async def record(self, key: EffectKey, attempt: int, outcome: dict[str, Any]) -> bool:
        text = to_json(outcome)
        with self._lock:
            row = self._row(key)
            if row is None or row.attempt != attempt or row.worker is None:
                return False
            if row.settled:
                return row.outcome == text
            row.outcome, row.settled = text, is_final(outcome)
            return True

    async def release(self, key: EffectKey, attempt: int) -> bool:
        with self._lock:
            row = self._row(key)
            if row is None or row.attempt != attempt or row.worker is None or row.outcome is not None:
                return False
            row.worker = None
            return True

    async def get_effect(self, key: EffectKey) -> Effect | None:
        with self._lock:
            return self._effect(key)

    async def effects(self, turn_id: str) -> list[Effect]:
        with self._lock:
            found = [self._effect(key) for key in self._effects.get(turn_id, ())]
            return [effect for effect in found if effect is not None]

    async def delete_thread(self, thread: str) -> None:
        with self._lock:
            for turn_ids in self._turn_ids.pop(thread, {}).values():
                for turn_id in turn_ids:
                    del self._turns[turn_id]
                    self._effects.pop(turn_id, None)

    async def aclose(self) -> None:
        """Does nothing: there are no connections, and the contents stay."""

    def _is_open(self, turn_id: str) -> bool:
        turn = self._turns.get(turn_id)
        return turn is not None and turn.ended_at is None

    def _latest(self, thread: str, position: str) -> Turn | None:
        turn_ids = self._turn_ids.get(thread, {}).get(position)
        return self._turns[turn_ids[-1]] if turn_ids else None

    def _row(self, key: EffectKey) -> _Row | None:
        return self._effects.get(key.turn_id, {}).get(key)

    def _change(self, turn_id: str, **changes: Any) -> None:
        turn = self._turns.get(turn_id)
        if turn is not None:
            self._turns[turn_id] = replace(turn, **changes)

    def _claim(self, key: EffectKey, worker: str) -> Effect:
        found = self._effect(key)
        if found is not None:
            return found
        if not self._is_open(key.turn_id):
            raise turn_ended(key)
        rows = self._effects.setdefault(key.turn_id, {})
        row = rows.setdefault(key, _Row(attempt=0, worker=None, claimed_at=0.0))
        return self._assign(key, row, worker)

    def _assign(self, key: EffectKey, row: _Row, worker: str) -> Effect:
        row.attempt += 1
        row.worker, row.claimed_at, row.outcome, row.settled = worker, self._clock(), None, False
        return Effect(key, row.attempt, worker, row.claimed_at, age=0.0, mine=True)

    def _effect(self, key: EffectKey) -> Effect | None:
        row = self._row(key)
        if row is None or row.worker is None:
            return None
        age = max(0.0, self._clock() - row.claimed_at)
        outcome = None if row.outcome is None else json.loads(row.outcome)
        return Effect(key, row.attempt, row.worker, row.claimed_at, age, outcome)
