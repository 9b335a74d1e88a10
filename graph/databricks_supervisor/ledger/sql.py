"""The ledger in SQLite or Postgres."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.sql import Executable

from .database import Database, DatabaseSpec
from .protocol import Effect, EffectKey, EffectKind, Ledger, NewTurn, Turn
from .rows import (
    effect_from_row,
    is_final,
    is_id_taken,
    prevents_opening,
    to_json,
    turn_ended,
    turn_from_row,
    turn_mismatch,
)
from .statements import EffectStatements, TurnStatements, database_clock
from .url import spec_from_psycopg, spec_from_url

T = TypeVar("T")
_Values = dict[str, Any]
_Build = Callable[[Mapping[str, Any]], T]


class SqlLedger(Ledger):
    """A :class:`~databricks_supervisor.ledger.Ledger` in a SQLite file or in Postgres.

    The tables are created at first use. SQLite serves the processes of one machine (its file must not be on a
    network file system); Postgres serves several machines. Records survive the death of the process and, with
    SQLite's ``synchronous=FULL`` and Postgres' defaults, a power cut. One ledger may be used from any number of
    threads and event loops, and in a child after a fork.

    Args:
        url: ``sqlite:///relative/path.db``, ``sqlite:////absolute/path.db`` or ``postgresql://…``. Missing
            folders are created; a relative path starts at the working directory at first use.
        clock: Returns the time, in seconds since the epoch, and replaces the database's clock. For tests only:
            several machines have no other clock in common.

    Raises:
        ConfigurationError: The URL is of another kind, or psycopg is not installed.

    Example:
        >>> import asyncio, tempfile
        >>> from databricks_supervisor.ledger import EffectKey, NewTurn, SqlLedger
        >>> async def main(folder):
        ...     ledger = SqlLedger(f"sqlite:///{folder}/ledger.db")
        ...     await ledger.open_turn(NewTurn("turn-1", "thread-1", "", None, "digest"))
        ...     effect = await ledger.claim(EffectKey("turn-1", 0, "submit"), "worker")
        ...     await ledger.record(effect.key, effect.attempt, {"response_id": "resp_1"})
        ...     found = await ledger.get_effect(effect.key)
        ...     await ledger.aclose()
        ...     return found.outcome
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     asyncio.run(main(folder))
        {'response_id': 'resp_1'}
    """

    def __init__(self, url: str | URL, *, clock: Callable[[], float] | None = None) -> None:
        self._configure(spec_from_url(url), clock)

    @classmethod
    def from_psycopg(cls, conninfo: str, *, clock: Callable[[], float] | None = None, **kwargs: Any) -> Self:
        """A ledger in Postgres, by a psycopg connection string as ``PostgresSaver`` takes it.

        Args:
            conninfo: What ``psycopg.connect`` takes: a URL or ``"host=… dbname=…"``.
            clock: As for the class.
            kwargs: More parameters for ``psycopg.connect``: ``password``, ``sslmode``, ``prepare_threshold``…
                ``password`` may be a function, called for each new connection (for tokens that expire).

        Raises:
            ConfigurationError: The connection string is invalid, or psycopg is not installed.

        Example:
            >>> from databricks_supervisor.ledger import SqlLedger
            >>> SqlLedger.from_psycopg("host=db.example dbname=agent user=app", password="secret")
            SqlLedger('postgresql://db.example/agent')
        """
        ledger = cls.__new__(cls)
        ledger._configure(spec_from_psycopg(conninfo, **kwargs), clock)
        return ledger

    def _configure(self, spec: DatabaseSpec, clock: Callable[[], float] | None) -> None:
        self._database = Database(spec)
        self._clock = clock
        now = database_clock(spec.dialect, injected=clock is not None)
        self._turns = TurnStatements(spec.dialect, now)
        self._effects = EffectStatements(spec.dialect, now)

    @property
    def database(self) -> Database:
        """The ledger's database, for tables that belong with it."""
        return self._database

    def __repr__(self) -> str:
        return f"SqlLedger({self._database.spec.name!r})"

    async def open_turn(self, turn: NewTurn, after: str | None = None) -> tuple[Turn, bool]:
        values = {
            "p_turn": turn.turn_id,
            "p_thread": turn.thread,
            "p_position": turn.position,
            "p_step": turn.step,
            "p_digest": turn.digest,
            "p_message_ids": to_json(turn.message_ids),
            "p_identity": turn.identity,
            "p_after": after,
        }

        def work(connection: Connection) -> tuple[Turn, bool]:
            while True:
                if opened := self._one(connection, self._turns.open_turn, turn_from_row, values):
                    return opened, True
                known = self._one(connection, self._turns.get_turn, turn_from_row, values)
                if known is not None and is_id_taken(turn, known):
                    raise turn_mismatch(turn, known)
                latest = self._one(connection, self._turns.latest_turn, turn_from_row, values)
                if latest is not None and prevents_opening(latest, after):
                    return latest, False
                # The turn that prevented it ended between the statements: try again.

        return await self._database.run(work)

    async def get_turn(self, turn_id: str) -> Turn | None:
        return await self._read_one(self._turns.get_turn, turn_from_row, {"p_turn": turn_id})

    async def latest_turn(self, thread: str, position: str) -> Turn | None:
        values = {"p_thread": thread, "p_position": position}
        return await self._read_one(self._turns.latest_turn, turn_from_row, values)

    async def open_turns(self, limit: int) -> list[Turn]:
        return await self._read(self._turns.open_turns, turn_from_row, {"p_limit": limit})

    async def turns_with_effect(self, kind: EffectKind, id: str) -> list[Turn]:
        return await self._read(self._turns.turns_with_effect, turn_from_row, {"p_kind": kind, "p_id": id})

    async def attach_turn(self, turn_id: str, step: int | None) -> None:
        await self._write(self._turns.attach_turn, {"p_turn": turn_id, "p_step": step})

    async def end_turn(self, turn_id: str) -> None:
        await self._write(self._turns.end_turn, {"p_turn": turn_id})

    async def mark_delivered(self, turn_id: str) -> None:
        await self._write(self._turns.mark_delivered, {"p_turn": turn_id})

    async def claim(self, key: EffectKey, worker: str) -> Effect:
        return await self._database.run(lambda connection: self._claim(connection, key, worker))

    async def take_over(self, key: EffectKey, attempt: int, worker: str) -> Effect:
        values = {**_key_values(key), "p_attempt": attempt, "p_worker": worker}

        def work(connection: Connection) -> Effect:
            if taken := self._one(connection, self._effects.take_over, _claimed_effect, values):
                return taken
            self._require_open_turn(connection, key)
            # The attempt is not current, or has a final outcome: read it. If it was released: claim it.
            return self._claim(connection, key, worker)

        return await self._database.run(work)

    async def record(self, key: EffectKey, attempt: int, outcome: dict[str, Any]) -> bool:
        values = {"p_attempt": attempt, "p_outcome": to_json(outcome), "p_settled": is_final(outcome)}
        return await self._write(self._effects.record, {**_key_values(key), **values})

    async def release(self, key: EffectKey, attempt: int) -> bool:
        return await self._write(self._effects.release, {**_key_values(key), "p_attempt": attempt})

    async def get_effect(self, key: EffectKey) -> Effect | None:
        return await self._read_one(self._effects.get_effect, effect_from_row, _key_values(key))

    async def effects(self, turn_id: str) -> list[Effect]:
        return await self._read(self._effects.effects, effect_from_row, {"p_turn": turn_id})

    async def delete_thread(self, thread: str) -> None:
        await self._write(self._turns.delete_thread, {"p_thread": thread})

    async def aclose(self) -> None:
        await self._database.aclose()

    def _claim(self, connection: Connection, key: EffectKey, worker: str) -> Effect:
        values = {**_key_values(key), "p_worker": worker}
        while True:
            if claimed := self._one(connection, self._effects.claim, _claimed_effect, values):
                return claimed
            if found := self._one(connection, self._effects.get_effect, effect_from_row, values):
                return found
            self._require_open_turn(connection, key)
            # The other claim was released between the two statements: try again.

    def _require_open_turn(self, connection: Connection, key: EffectKey) -> None:
        turn = self._one(connection, self._turns.get_turn, turn_from_row, _key_values(key))
        if turn is None or turn.ended_at is not None:
            raise turn_ended(key)

    async def _read(self, statement: Executable, build: _Build[T], values: _Values) -> list[T]:
        return await self._database.run(lambda connection: self._all(connection, statement, build, values))

    async def _read_one(self, statement: Executable, build: _Build[T], values: _Values) -> T | None:
        return await self._database.run(lambda connection: self._one(connection, statement, build, values))

    async def _write(self, statement: Executable, values: _Values) -> bool:
        """Execute a statement; whether it matched a row."""
        return await self._database.run(
            lambda connection: connection.execute(statement, self._with_clock(values)).rowcount > 0
        )

    def _all(
        self, connection: Connection, statement: Executable, build: _Build[T], values: _Values
    ) -> list[T]:
        rows = connection.execute(statement, self._with_clock(values)).mappings()
        return [build({**row}) for row in rows]

    def _one(
        self, connection: Connection, statement: Executable, build: _Build[T], values: _Values
    ) -> T | None:
        return next(iter(self._all(connection, statement, build, values)), None)

    def _with_clock(self, values: _Values) -> _Values:
        return values if self._clock is None else {**values, "now": self._clock()}


def _key_values(key: EffectKey) -> _Values:
    return {"p_turn": key.turn_id, "p_round": key.round, "p_kind": key.kind, "p_id": key.id}


def _claimed_effect(row: Mapping[str, Any]) -> Effect:
    return effect_from_row(row, mine=True)
