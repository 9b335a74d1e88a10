"""The ledger's SQL: one statement per step, the same for SQLite and Postgres.

Each ledger builds them once. Their parameters are named ``p_…`` (and ``now``, if the clock is injected).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from .schema import effects, turns

_TURN_COLUMNS = tuple(column for column in turns.c if column.name != "seq")


def _text(name: str) -> sa.ColumnElement[Any]:
    return sa.bindparam(name, type_=sa.Text)


def _integer(name: str) -> sa.ColumnElement[Any]:
    return sa.bindparam(name, type_=sa.Integer)


def _insert(dialect: str, table: sa.Table) -> Any:
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


_SAME_TURN = turns.c.turn_id == _text("p_turn")
_IS_OPEN = turns.c.ended_at.is_(None)


def database_clock(dialect: str, *, injected: bool) -> sa.ColumnElement[float]:
    """The current time: the database's, or the parameter ``now``.

    Args:
        dialect: ``"sqlite"`` or ``"postgresql"``.
        injected: Whether to use the parameter.
    """
    if injected:
        return sa.bindparam("now", type_=sa.Double)
    if dialect == "postgresql":
        return sa.literal_column("extract(epoch from clock_timestamp())::double precision", sa.Double)
    return sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Double)


class TurnStatements:
    """Statements about turns, named as the ledger's methods.

    Args:
        dialect: ``"sqlite"`` or ``"postgresql"``.
        now: The current time.
    """

    def __init__(self, dialect: str, now: sa.ColumnElement[float]) -> None:
        same_place = sa.and_(turns.c.thread == _text("p_thread"), turns.c.position == _text("p_position"))
        newest = (_IS_OPEN.desc(), turns.c.seq.desc())
        newest_first = (turns.c.opened_at.desc(), turns.c.turn_id.desc())
        latest_id = sa.select(turns.c.turn_id).where(same_place).order_by(*newest).limit(1).scalar_subquery()
        new_turn = {
            "turn_id": _text("p_turn"),
            "thread": _text("p_thread"),
            "position": _text("p_position"),
            "seq": sa.select(sa.func.coalesce(sa.func.max(turns.c.seq), 0) + 1)
            .where(same_place)
            .scalar_subquery(),
            "step": _integer("p_step"),
            "digest": _text("p_digest"),
            "message_ids": _text("p_message_ids"),
            "identity": _text("p_identity"),
            "opened_at": now,
        }
        # Two that start at the same time compute the same seq: the later one conflicts, even if the other turn has
        # ended by then. (Without p_after, both sides are the latest id.)
        is_latest = sa.func.coalesce(_text("p_after"), latest_id, "") == sa.func.coalesce(
            latest_id, _text("p_after"), ""
        )
        had_effect = sa.select(effects.c.turn_id).where(
            effects.c.kind == _text("p_kind"), effects.c.id == _text("p_id")
        )
        self.open_turn = (
            _insert(dialect, turns)
            .from_select(list(new_turn), sa.select(*new_turn.values()).where(is_latest))
            .on_conflict_do_nothing()
            .returning(*_TURN_COLUMNS)
        )
        self.get_turn = sa.select(*_TURN_COLUMNS).where(_SAME_TURN)
        self.latest_turn = sa.select(*_TURN_COLUMNS).where(same_place).order_by(*newest).limit(1)
        self.open_turns = (
            sa.select(*_TURN_COLUMNS).where(_IS_OPEN).order_by(*newest_first).limit(_integer("p_limit"))
        )
        self.turns_with_effect = (
            sa.select(*_TURN_COLUMNS).where(turns.c.turn_id.in_(had_effect)).order_by(*newest_first)
        )
        self.attach_turn = sa.update(turns).where(_SAME_TURN).values(step=_integer("p_step"))
        self.end_turn = sa.update(turns).where(_SAME_TURN, _IS_OPEN).values(ended_at=now)
        self.mark_delivered = (
            sa.update(turns).where(_SAME_TURN, turns.c.delivered_at.is_(None)).values(delivered_at=now)
        )
        self.delete_thread = sa.delete(turns).where(turns.c.thread == _text("p_thread"))


class EffectStatements:
    """Statements about effects, named as the ledger's methods.

    Args:
        dialect: ``"sqlite"`` or ``"postgresql"``.
        now: The current time.
    """

    def __init__(self, dialect: str, now: sa.ColumnElement[float]) -> None:
        columns = (
            *(column for column in effects.c if column.name not in ("seq", "settled")),
            (now - effects.c.claimed_at).label("age"),
        )
        of_turn = effects.c.turn_id == _text("p_turn")
        same_effect = sa.and_(
            of_turn,
            effects.c.round == _integer("p_round"),
            effects.c.kind == _text("p_kind"),
            effects.c.id == _text("p_id"),
        )
        same_attempt = sa.and_(same_effect, effects.c.attempt == _integer("p_attempt"))
        is_claimed = effects.c.worker.is_not(None)
        # The row lock makes a concurrent end_turn wait: after end_turn, every claim of the turn is visible.
        open_turn: sa.Select[Any] = (
            sa.select(turns.c.turn_id).where(_SAME_TURN, _IS_OPEN).with_for_update(read=True)
        )
        next_seq = (
            sa.select(sa.func.coalesce(sa.func.max(effects.c.seq), 0) + 1).where(of_turn).scalar_subquery()
        )
        claim = _insert(dialect, effects).from_select(
            ["turn_id", "round", "kind", "id", "seq", "attempt", "worker", "claimed_at"],
            open_turn.add_columns(
                _integer("p_round"),
                _text("p_kind"),
                _text("p_id"),
                next_seq,
                sa.literal(1, sa.Integer),
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
        ).returning(*columns)
        self.take_over = (
            sa.update(effects)
            .where(same_attempt, effects.c.settled.is_(False), open_turn.exists())
            .values(
                attempt=effects.c.attempt + 1,
                worker=_text("p_worker"),
                claimed_at=now,
                outcome=None,
                settled=False,
            )
            .returning(*columns)
        )
        self.record = (
            sa.update(effects)
            .where(
                same_attempt,
                is_claimed,
                sa.or_(effects.c.settled.is_(False), effects.c.outcome == _text("p_outcome")),
            )
            .values(outcome=_text("p_outcome"), settled=sa.bindparam("p_settled"))
        )
        self.release = (
            sa.update(effects)
            .where(same_attempt, is_claimed, effects.c.outcome.is_(None))
            .values(worker=None)
        )
        self.get_effect = sa.select(*columns).where(same_effect, is_claimed)
        self.effects = (
            sa.select(*columns)
            .where(of_turn, is_claimed)
            .order_by(effects.c.seq, effects.c.round, effects.c.kind, effects.c.id)
        )
