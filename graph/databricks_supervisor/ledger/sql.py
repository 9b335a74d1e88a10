"""The ledger in SQLite or Postgres."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.sql import Executable

from . import Effect, EffectKey, EffectKind, NewTurn, Turn
from .database import Database, Place
from .rows import clash, dump, effect_of, is_final, is_in_the_way, turn_ended, turn_mismatch, turn_of
from .statements import database_clock, effect_statements, turn_statements
from .url import place_of_psycopg, place_of_url

T = TypeVar("T")


class SqlLedger:
    """A :class:`~databricks_supervisor.ledger.Ledger` in a SQLite file or in Postgres.

    The tables are made at first use. SQLite is for the processes of one machine (its file must not lie on a
    network file system); Postgres is for several. What was recorded survives the death of the process and,
    with SQLite's ``synchronous=FULL`` and Postgres' defaults, a power cut. One ledger may be used from any
    number of threads and event loops, and in a child after a fork.

    Args:
        url: ``sqlite:///relative/path.db``, ``sqlite:////absolute/path.db`` or ``postgresql://…``. Folders
            that the path names are made; a relative one is taken from the working directory at first use.
        clock: Gives the time, in seconds since the epoch, instead of the database's clock. For tests: several
            machines agree on the database's clock only.

    Raises:
        ConfigurationError: Not such a URL, or psycopg is not installed.

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
        self._use(place_of_url(url), clock)

    @classmethod
    def from_psycopg(cls, conninfo: str, *, clock: Callable[[], float] | None = None, **kwargs: Any) -> Self:
        """A ledger in the Postgres of a psycopg connection string, such as ``PostgresSaver`` takes.

        Args:
            conninfo: What ``psycopg.connect`` takes: a URL or ``"host=… dbname=…"``.
            clock: As for the class.
            kwargs: More parameters for ``psycopg.connect``: ``password``, ``sslmode``, ``prepare_threshold``…
                ``password`` may be a function that gives one for each new connection, as a token that expires.

        Raises:
            ConfigurationError: Not a connection string, or psycopg is not installed.

        Example:
            >>> from databricks_supervisor.ledger import SqlLedger
            >>> SqlLedger.from_psycopg("host=db.example dbname=agent user=app", password="secret")
            SqlLedger('postgresql://db.example/agent')
        """
        ledger = cls.__new__(cls)
        ledger._use(place_of_psycopg(conninfo, **kwargs), clock)
        return ledger

    def _use(self, place: Place, clock: Callable[[], float] | None) -> None:
        self._database = Database(place)
        self._clock = clock
        now = database_clock(place.dialect, injected=clock is not None)
        self._turns = turn_statements(place.dialect, now)
        self._effects = effect_statements(place.dialect, now)

    @property
    def database(self) -> Database:
        """Its database, for what has to live as long as the ledger."""
        return self._database

    def __repr__(self) -> str:
        return f"SqlLedger({self._database.place.name!r})"

    async def open_turn(self, turn: NewTurn, after: str | None = None) -> tuple[Turn, bool]:
        """See :meth:`Ledger.open_turn`."""
        values = {
            "p_turn": turn.turn_id,
            "p_thread": turn.thread,
            "p_position": turn.position,
            "p_step": turn.step,
            "p_digest": turn.digest,
            "p_message_ids": dump(turn.message_ids),
            "p_identity": turn.identity,
            "p_after": after,
        }

        def work(connection: Connection) -> tuple[Turn, bool]:
            while True:
                if opened := self._one(connection, self._turns.open_turn, values, turn_of):
                    return opened, True
                known = self._one(connection, self._turns.get_turn, {"p_turn": turn.turn_id}, turn_of)
                if known is not None and clash(turn, known):
                    raise turn_mismatch(turn, known)
                latest = self._one(connection, self._turns.latest_turn, values, turn_of)
                if latest is not None and is_in_the_way(latest, after):
                    return latest, False
                # What stood in the way has just ended: try again.

        return await self._database.run(work)

    async def get_turn(self, turn_id: str) -> Turn | None:
        """See :meth:`Ledger.get_turn`."""
        return await self._read_turn(self._turns.get_turn, p_turn=turn_id)

    async def latest_turn(self, thread: str, position: str) -> Turn | None:
        """See :meth:`Ledger.latest_turn`."""
        return await self._read_turn(self._turns.latest_turn, p_thread=thread, p_position=position)

    async def open_turns(self, limit: int) -> list[Turn]:
        """See :meth:`Ledger.open_turns`."""
        return await self._read_turns(self._turns.open_turns, p_limit=limit)

    async def turns_with_effect(self, kind: EffectKind, id: str) -> list[Turn]:
        """See :meth:`Ledger.turns_with_effect`."""
        return await self._read_turns(self._turns.turns_with_effect, p_kind=kind, p_id=id)

    async def attach_turn(self, turn_id: str, step: int | None) -> None:
        """See :meth:`Ledger.attach_turn`."""
        await self._write(self._turns.attach_turn, p_turn=turn_id, p_step=step)

    async def end_turn(self, turn_id: str) -> None:
        """See :meth:`Ledger.end_turn`."""
        await self._write(self._turns.end_turn, p_turn=turn_id)

    async def mark_delivered(self, turn_id: str) -> None:
        """See :meth:`Ledger.mark_delivered`."""
        await self._write(self._turns.mark_delivered, p_turn=turn_id)

    async def claim(self, key: EffectKey, worker: str) -> Effect:
        """See :meth:`Ledger.claim`."""
        return await self._database.run(lambda connection: self._claim(connection, key, worker))

    async def take_over(self, key: EffectKey, attempt: int, worker: str) -> Effect:
        """See :meth:`Ledger.take_over`."""
        values = {**_of(key), "p_attempt": attempt, "p_worker": worker}

        def work(connection: Connection) -> Effect:
            if taken := self._one(connection, self._effects.take_over, values, _mine):
                return taken
            self._must_be_open(connection, key)
            # Somebody else took it over, or its outcome came after all: read it. Or it was given back: claim it.
            return self._claim(connection, key, worker)

        return await self._database.run(work)

    async def record(self, key: EffectKey, attempt: int, outcome: dict[str, Any]) -> bool:
        """See :meth:`Ledger.record`."""
        values = {"p_attempt": attempt, "p_outcome": dump(outcome), "p_settled": is_final(outcome)}
        return await self._write_if(self._effects.record, **_of(key), **values)

    async def release(self, key: EffectKey, attempt: int) -> bool:
        """See :meth:`Ledger.release`."""
        return await self._write_if(self._effects.release, **_of(key), p_attempt=attempt)

    async def get_effect(self, key: EffectKey) -> Effect | None:
        """See :meth:`Ledger.get_effect`."""
        return await self._database.run(
            lambda connection: self._one(connection, self._effects.get_effect, _of(key), effect_of)
        )

    async def effects(self, turn_id: str) -> list[Effect]:
        """See :meth:`Ledger.effects`."""

        def work(connection: Connection) -> list[Effect]:
            rows = connection.execute(self._effects.effects, self._at_now({"p_turn": turn_id})).mappings()
            return [effect_of({**row}) for row in rows]

        return await self._database.run(work)

    async def delete_thread(self, thread: str) -> None:
        """See :meth:`Ledger.delete_thread`."""
        await self._write(self._turns.delete_thread, p_thread=thread)

    async def aclose(self) -> None:
        """Close the connections. The ledger may be used again afterwards."""
        await self._database.aclose()

    def _claim(self, connection: Connection, key: EffectKey, worker: str) -> Effect:
        while True:
            if claimed := self._one(connection, self._effects.claim, {**_of(key), "p_worker": worker}, _mine):
                return claimed
            if found := self._one(connection, self._effects.get_effect, _of(key), effect_of):
                return found
            self._must_be_open(connection, key)
            # What stood in the way has just been given back: try again.

    def _must_be_open(self, connection: Connection, key: EffectKey) -> None:
        turn = self._one(connection, self._turns.get_turn, {"p_turn": key.turn_id}, turn_of)
        if turn is None or turn.ended_at is not None:
            raise turn_ended(key)

    async def _read_turn(self, statement: Executable, **values: Any) -> Turn | None:
        return await self._database.run(lambda connection: self._one(connection, statement, values, turn_of))

    async def _read_turns(self, statement: Executable, **values: Any) -> list[Turn]:
        def work(connection: Connection) -> list[Turn]:
            rows = connection.execute(statement, self._at_now(values)).mappings()
            return [turn_of({**row}) for row in rows]

        return await self._database.run(work)

    async def _write(self, statement: Executable, **values: Any) -> None:
        def work(connection: Connection) -> None:
            connection.execute(statement, self._at_now(values))

        await self._database.run(work)

    async def _write_if(self, statement: Executable, **values: Any) -> bool:
        def work(connection: Connection) -> bool:
            return connection.execute(statement, self._at_now(values)).one_or_none() is not None

        return await self._database.run(work)

    def _one(
        self,
        connection: Connection,
        statement: Executable,
        values: dict[str, Any],
        build: Callable[[Mapping[str, Any]], T],
    ) -> T | None:
        row = connection.execute(statement, self._at_now(values)).mappings().one_or_none()
        return None if row is None else build({**row})

    def _at_now(self, values: dict[str, Any]) -> dict[str, Any]:
        return values if self._clock is None else {**values, "now": self._clock()}


def _of(key: EffectKey) -> dict[str, Any]:
    return {"p_turn": key.turn_id, "p_round": key.round, "p_kind": key.kind, "p_id": key.id}


def _mine(row: Mapping[str, Any]) -> Effect:
    return effect_of(row, mine=True)
