"""The ledger's SQL: every step of it is one statement, the same for SQLite and Postgres.

The statements are made once for a ledger and take their values as parameters whose names begin with ``p_``
(and ``now``, where the clock is injected).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    delete,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from .schema import effects, turns

_TURN_COLUMNS = tuple(column for column in turns.c if column.name != "seq")


def _text(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=Text)


def _integer(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=Integer)


def _database_clock(dialect: str) -> ColumnElement[float]:
    if dialect == "postgresql":
        return literal_column("extract(epoch from clock_timestamp())::double precision", Double)
    return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Double)


class Statements:
    """The statements of one ledger.

    Args:
        dialect: ``"sqlite"`` or ``"postgresql"``.
        injected_clock: Whether the time is given as parameter ``now``, instead of read from the database.
    """

    def __init__(self, dialect: str, *, injected_clock: bool) -> None:
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        now = bindparam("now", type_=Double) if injected_clock else _database_clock(dialect)
        effect_columns = (
            *(column for column in effects.c if column.name not in ("seq", "settled")),
            (now - effects.c.claimed_at).label("age"),
        )
        same_turn = turns.c.turn_id == _text("p_turn")
        same_place = and_(turns.c.thread == _text("p_thread"), turns.c.position == _text("p_position"))
        is_open = turns.c.ended_at.is_(None)
        same_effect = and_(
            effects.c.turn_id == _text("p_turn"),
            effects.c.round == _integer("p_round"),
            effects.c.kind == _text("p_kind"),
            effects.c.id == _text("p_id"),
        )
        same_attempt = and_(same_effect, effects.c.attempt == _integer("p_attempt"))
        is_claimed = effects.c.worker.is_not(None)

        # The lock makes an end that is recorded meanwhile wait: who ends a turn then sees every claim of it.
        open_turn: Select[Any] = select(turns.c.turn_id).where(same_turn, is_open).with_for_update(read=True)

        newest = (is_open.desc(), turns.c.seq.desc())
        latest_id = select(turns.c.turn_id).where(same_place).order_by(*newest).limit(1).scalar_subquery()
        new_turn = {
            "turn_id": _text("p_turn"),
            "thread": _text("p_thread"),
            "position": _text("p_position"),
            "seq": select(func.coalesce(func.max(turns.c.seq), 0) + 1).where(same_place).scalar_subquery(),
            "step": _integer("p_step"),
            "digest": _text("p_digest"),
            "message_ids": _text("p_message_ids"),
            "identity": _text("p_identity"),
            "opened_at": now,
        }
        # Of two that begin at once, both see the same number as the next: the one that is later conflicts,
        # although the other's turn may have ended by then.
        self.open_turn = (
            insert(turns)
            .from_select(
                list(new_turn),
                select(*new_turn.values()).where(
                    func.coalesce(_text("p_after"), latest_id, "")
                    == func.coalesce(latest_id, _text("p_after"), "")
                ),
            )
            .on_conflict_do_nothing()
            .returning(*_TURN_COLUMNS)
        )
        self.get_turn = select(*_TURN_COLUMNS).where(same_turn)
        self.latest_turn = select(*_TURN_COLUMNS).where(same_place).order_by(*newest).limit(1)
        newest_first = (turns.c.opened_at.desc(), turns.c.turn_id.desc())
        self.open_turns = (
            select(*_TURN_COLUMNS).where(is_open).order_by(*newest_first).limit(_integer("p_limit"))
        )
        self.turns_with_effect = (
            select(*_TURN_COLUMNS)
            .where(
                turns.c.turn_id.in_(
                    select(effects.c.turn_id).where(
                        effects.c.kind == _text("p_kind"), effects.c.id == _text("p_id")
                    )
                )
            )
            .order_by(*newest_first)
        )
        self.attach_turn = update(turns).where(same_turn).values(step=_integer("p_step"))
        self.end_turn = update(turns).where(same_turn, is_open).values(ended_at=now)
        self.mark_delivered = (
            update(turns).where(same_turn, turns.c.delivered_at.is_(None)).values(delivered_at=now)
        )
        self.delete_thread = delete(turns).where(turns.c.thread == _text("p_thread"))

        claim = insert(effects).from_select(
            ["turn_id", "round", "kind", "id", "seq", "attempt", "worker", "claimed_at"],
            open_turn.add_columns(
                _integer("p_round"),
                _text("p_kind"),
                _text("p_id"),
                select(func.coalesce(func.max(effects.c.seq), 0) + 1)
                .where(effects.c.turn_id == _text("p_turn"))
                .scalar_subquery(),
                literal(1, Integer),
                _text("p_worker"),
                now,
            ),
        )
        self.claim = claim.on_conflict_do_update(
            index_elements=["turn_id", "round", "kind", "id"],
            set_={
                "attempt": effects.c.attempt + 1,
                "worker": claim.excluded.worker,
                "claimed_at": claim.excluded.claimed_at,
            },
            where=effects.c.worker.is_(None),
        ).returning(*effect_columns)
        self.take_over = (
            update(effects)
            .where(same_attempt, effects.c.settled.is_(False), open_turn.exists())
            .values(
                attempt=effects.c.attempt + 1,
                worker=_text("p_worker"),
                claimed_at=now,
                outcome=None,
                settled=False,
            )
            .returning(*effect_columns)
        )
        self.record = (
            update(effects)
            .where(
                same_attempt,
                is_claimed,
                or_(effects.c.settled.is_(False), effects.c.outcome == _text("p_outcome")),
            )
            .values(outcome=_text("p_outcome"), settled=bindparam("p_settled"))
            .returning(effects.c.attempt)
        )
        self.release = (
            update(effects)
            .where(same_attempt, is_claimed, effects.c.outcome.is_(None))
            .values(worker=None)
            .returning(effects.c.attempt)
        )
        self.get_effect = select(*effect_columns).where(same_effect, is_claimed)
        self.effects = (
            select(*effect_columns)
            .where(effects.c.turn_id == _text("p_turn"), is_claimed)
            .order_by(effects.c.seq, effects.c.round, effects.c.kind, effects.c.id)
        )
