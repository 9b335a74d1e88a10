"""The ledger's SQL: every step of it is one statement, the same for SQLite and Postgres.

The statements are made once for a ledger and take their values as parameters whose names begin with ``p_``
(and ``now``, where the clock is injected).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    Executable,
    Integer,
    Select,
    Table,
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


def _insert(dialect: str, table: Table) -> Any:
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


_SAME_TURN = turns.c.turn_id == _text("p_turn")
_IS_OPEN = turns.c.ended_at.is_(None)


@dataclass(frozen=True, slots=True)
class TurnStatements:
    """The statements about turns, by the name of the ledger's method."""

    open_turn: Executable
    get_turn: Executable
    latest_turn: Executable
    open_turns: Executable
    turns_with_effect: Executable
    attach_turn: Executable
    end_turn: Executable
    mark_delivered: Executable
    delete_thread: Executable


@dataclass(frozen=True, slots=True)
class EffectStatements:
    """The statements about effects, by the name of the ledger's method."""

    claim: Executable
    take_over: Executable
    record: Executable
    release: Executable
    get_effect: Executable
    effects: Executable


def database_clock(dialect: str, *, injected: bool) -> ColumnElement[float]:
    """The time: of the database, or given as parameter ``now``.

    Args:
        dialect: ``"sqlite"`` or ``"postgresql"``.
        injected: Whether it is given.
    """
    if injected:
        return bindparam("now", type_=Double)
    if dialect == "postgresql":
        return literal_column("extract(epoch from clock_timestamp())::double precision", Double)
    return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Double)


def turn_statements(dialect: str, now: ColumnElement[float]) -> TurnStatements:
    """The statements about turns.

    Args:
        dialect: ``"sqlite"`` or ``"postgresql"``.
        now: The time.
    """
    same_place = and_(turns.c.thread == _text("p_thread"), turns.c.position == _text("p_position"))
    newest = (_IS_OPEN.desc(), turns.c.seq.desc())
    newest_first = (turns.c.opened_at.desc(), turns.c.turn_id.desc())
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
    is_latest = func.coalesce(_text("p_after"), latest_id, "") == func.coalesce(
        latest_id, _text("p_after"), ""
    )
    had_effect = select(effects.c.turn_id).where(
        effects.c.kind == _text("p_kind"), effects.c.id == _text("p_id")
    )
    return TurnStatements(
        open_turn=_insert(dialect, turns)
        .from_select(list(new_turn), select(*new_turn.values()).where(is_latest))
        .on_conflict_do_nothing()
        .returning(*_TURN_COLUMNS),
        get_turn=select(*_TURN_COLUMNS).where(_SAME_TURN),
        latest_turn=select(*_TURN_COLUMNS).where(same_place).order_by(*newest).limit(1),
        open_turns=select(*_TURN_COLUMNS).where(_IS_OPEN).order_by(*newest_first).limit(_integer("p_limit")),
        turns_with_effect=select(*_TURN_COLUMNS)
        .where(turns.c.turn_id.in_(had_effect))
        .order_by(*newest_first),
        attach_turn=update(turns).where(_SAME_TURN).values(step=_integer("p_step")),
        end_turn=update(turns).where(_SAME_TURN, _IS_OPEN).values(ended_at=now),
        mark_delivered=update(turns)
        .where(_SAME_TURN, turns.c.delivered_at.is_(None))
        .values(delivered_at=now),
        delete_thread=delete(turns).where(turns.c.thread == _text("p_thread")),
    )


def effect_statements(dialect: str, now: ColumnElement[float]) -> EffectStatements:
    """The statements about effects.

    Args:
        dialect: ``"sqlite"`` or ``"postgresql"``.
        now: The time.
    """
    columns = (
        *(column for column in effects.c if column.name not in ("seq", "settled")),
        (now - effects.c.claimed_at).label("age"),
    )
    of_turn = effects.c.turn_id == _text("p_turn")
    same_effect = and_(
        of_turn,
        effects.c.round == _integer("p_round"),
        effects.c.kind == _text("p_kind"),
        effects.c.id == _text("p_id"),
    )
    same_attempt = and_(same_effect, effects.c.attempt == _integer("p_attempt"))
    is_claimed = effects.c.worker.is_not(None)
    # The lock makes an end that is recorded meanwhile wait: who ends a turn then sees every claim of it.
    open_turn: Select[Any] = select(turns.c.turn_id).where(_SAME_TURN, _IS_OPEN).with_for_update(read=True)
    next_seq = select(func.coalesce(func.max(effects.c.seq), 0) + 1).where(of_turn).scalar_subquery()
    claim = _insert(dialect, effects).from_select(
        ["turn_id", "round", "kind", "id", "seq", "attempt", "worker", "claimed_at"],
        open_turn.add_columns(
            _integer("p_round"),
            _text("p_kind"),
            _text("p_id"),
            next_seq,
            literal(1, Integer),
            _text("p_worker"),
            now,
        ),
    )
    return EffectStatements(
        claim=claim.on_conflict_do_update(
            index_elements=["turn_id", "round", "kind", "id"],
            set_={
                "attempt": effects.c.attempt + 1,
                "worker": claim.excluded.worker,
                "claimed_at": claim.excluded.claimed_at,
            },
            where=effects.c.worker.is_(None),
        ).returning(*columns),
        take_over=update(effects)
        .where(same_attempt, effects.c.settled.is_(False), open_turn.exists())
        .values(
            attempt=effects.c.attempt + 1,
            worker=_text("p_worker"),
            claimed_at=now,
            outcome=None,
            settled=False,
        )
        .returning(*columns),
        record=update(effects)
        .where(
            same_attempt,
            is_claimed,
            or_(effects.c.settled.is_(False), effects.c.outcome == _text("p_outcome")),
        )
        .values(outcome=_text("p_outcome"), settled=bindparam("p_settled"))
        .returning(effects.c.attempt),
        release=update(effects)
        .where(same_attempt, is_claimed, effects.c.outcome.is_(None))
        .values(worker=None)
        .returning(effects.c.attempt),
        get_effect=select(*columns).where(same_effect, is_claimed),
        effects=select(*columns)
        .where(of_turn, is_claimed)
        .order_by(effects.c.seq, effects.c.round, effects.c.kind, effects.c.id),
    )
