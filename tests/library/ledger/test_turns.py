"""Turns in the ledger, on each of its kinds: in memory, in a SQLite file, in Postgres."""

from __future__ import annotations

import asyncio

import pytest

from databricks_supervisor.errors import TurnMismatchError
from databricks_supervisor.ledger import EffectKey, Ledger, NewTurn, Turn
from tests.support.ledgers import KEY, Clock, MakeLedger, new_turn

# ---- turns


async def test_a_turn_is_kept_as_it_was_given(ledger: Ledger) -> None:
    given = NewTurn("t", "thread", "agent|node:3", 7, "digest", ("m1", "m2"), "ada@example.com")
    turn, opened = await ledger.open_turn(given)
    assert opened
    assert turn == Turn(
        "t",
        "thread",
        "agent|node:3",
        7,
        "digest",
        ("m1", "m2"),
        "ada@example.com",
        turn.opened_at,
        None,
        None,
    )
    assert await ledger.get_turn("t") == turn
    assert await ledger.latest_turn("thread", "agent|node:3") == turn


async def test_of_twenty_at_once_one_opens_the_turn(make_ledger: MakeLedger) -> None:
    ledgers = [make_ledger(), make_ledger()]
    answers = await asyncio.gather(*(ledgers[i % 2].open_turn(new_turn()) for i in range(20)))
    assert sum(opened for _, opened in answers) == 1
    assert len({turn.turn_id for turn, _ in answers}) == 1


async def test_the_open_turn_is_found_whatever_its_question(ledger: Ledger) -> None:
    first, _ = await ledger.open_turn(new_turn(digest="one"))
    assert await ledger.open_turn(new_turn(digest="two")) == (first, False)
    assert await ledger.open_turn(new_turn(first.turn_id, digest="two")) == (first, False)


async def test_a_turn_opens_only_after_the_one_that_was_seen_as_the_latest(ledger: Ledger) -> None:
    first, opened = await ledger.open_turn(new_turn(), after="")
    assert opened
    await ledger.end_turn(first.turn_id)
    ended = await ledger.get_turn(first.turn_id)
    assert await ledger.open_turn(new_turn(), after="") == (ended, False)
    assert await ledger.open_turn(new_turn(), after="another") == (ended, False)
    second, opened = await ledger.open_turn(new_turn(), after=first.turn_id)
    assert opened
    assert await ledger.open_turn(new_turn(), after=first.turn_id) == (second, False)
    assert (await ledger.open_turn(new_turn(thread="empty"), after=first.turn_id))[1]


async def test_of_twenty_that_saw_the_same_one_opens_though_turns_end_at_once(
    make_ledger: MakeLedger,
) -> None:
    ledgers = [make_ledger(), make_ledger()]

    async def press(number: int) -> bool:
        turn, opened = await ledgers[number % 2].open_turn(new_turn(), after="")
        await ledgers[number % 2].end_turn(turn.turn_id)
        return opened

    assert sum(await asyncio.gather(*map(press, range(20)))) == 1


async def test_each_thread_and_position_has_a_turn_of_its_own(ledger: Ledger) -> None:
    places = [("a", ""), ("a", "x"), ("b", ""), ("A", ""), ("a ", "")]
    answers = [await ledger.open_turn(new_turn(thread=thread, position=at)) for thread, at in places]
    assert all(opened for _, opened in answers)


async def test_after_the_end_of_a_turn_another_one_opens(ledger: Ledger) -> None:
    first, _ = await ledger.open_turn(new_turn())
    await ledger.end_turn(first.turn_id)
    second, opened = await ledger.open_turn(new_turn())
    assert opened
    assert await ledger.latest_turn("thread", "") == second


async def test_the_latest_turn_is_the_one_opened_last(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(Clock())  # all at the same time
    opened = []
    for turn_id in ("b", "c", "a"):
        opened.append((await ledger.open_turn(new_turn(turn_id)))[0])
        await ledger.end_turn(turn_id)
    latest = await ledger.latest_turn("thread", "")
    assert latest is not None
    assert latest.turn_id == "a"


async def test_a_turn_id_that_is_taken_is_refused(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("t"))
    with pytest.raises(TurnMismatchError, match="another thread or position"):
        await ledger.open_turn(new_turn("t", thread="other"))
    with pytest.raises(TurnMismatchError, match="another thread or position"):
        await ledger.open_turn(new_turn("t", position="other"))
    await ledger.end_turn("t")
    with pytest.raises(TurnMismatchError, match="has ended"):
        await ledger.open_turn(new_turn("t"))
    await ledger.open_turn(new_turn("other"))
    with pytest.raises(TurnMismatchError, match="has ended"):
        await ledger.open_turn(new_turn("t"))


async def test_the_first_end_and_the_first_delivery_stand(make_ledger: MakeLedger) -> None:
    clock = Clock()
    ledger = make_ledger(clock)
    await ledger.open_turn(new_turn("t"))
    clock.forward(1)
    await ledger.end_turn("t")
    clock.forward(1)
    await ledger.mark_delivered("t")
    clock.forward(1)
    await ledger.end_turn("t")
    await ledger.mark_delivered("t")
    turn = await ledger.get_turn("t")
    assert turn is not None
    assert (turn.ended_at, turn.delivered_at) == (turn.opened_at + 1, turn.opened_at + 2)


async def test_a_turn_knows_the_step_that_runs_it(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("t"))
    for step in (4, None):
        await ledger.attach_turn("t", step)
        turn = await ledger.get_turn("t")
        assert turn is not None
        assert turn.step == step


async def test_what_is_not_there_is_none_and_nothing_breaks(ledger: Ledger) -> None:
    assert await ledger.get_turn("t") is None
    assert await ledger.latest_turn("thread", "") is None
    assert await ledger.get_effect(KEY) is None
    assert await ledger.effects("t") == []
    assert not await ledger.record(KEY, 1, {})
    assert not await ledger.release(KEY, 1)
    await ledger.attach_turn("t", 1)
    await ledger.end_turn("t")
    await ledger.mark_delivered("t")
    await ledger.delete_thread("thread")


# ---- finding turns


async def test_open_turns_are_found_the_ones_opened_last_first(make_ledger: MakeLedger) -> None:
    clock = Clock()
    ledger = make_ledger(clock)
    for number in range(5):
        await ledger.open_turn(
            new_turn(f"t{number}", thread=f"thread{number}", position="" if number else "p")
        )
        clock.forward(1)
    await ledger.end_turn("t3")
    assert [turn.turn_id for turn in await ledger.open_turns(9)] == ["t4", "t2", "t1", "t0"]
    assert [turn.turn_id for turn in await ledger.open_turns(2)] == ["t4", "t2"]
    assert await ledger.open_turns(0) == []
    assert (await ledger.open_turns(1))[0] == await ledger.get_turn("t4")


async def test_turns_are_found_by_what_they_decide(make_ledger: MakeLedger) -> None:
    clock = Clock()
    ledger = make_ledger(clock)
    for number in range(3):
        await ledger.open_turn(new_turn(f"t{number}", thread=f"thread{number}"))
        clock.forward(1)
    keys = [
        EffectKey("t0", 0, "decision", "a"),
        EffectKey("t2", 0, "decision", "a"),
        EffectKey("t2", 3, "decision", "a"),
    ]
    for key in [*keys, EffectKey("t1", 0, "tool", "a"), EffectKey("t1", 0, "decision", "A")]:
        await ledger.claim(key, "w")
    assert [turn.turn_id for turn in await ledger.turns_with_effect("decision", "a")] == ["t2", "t0"]
    assert [turn.turn_id for turn in await ledger.turns_with_effect("tool", "a")] == ["t1"]
    assert await ledger.turns_with_effect("submit", "a") == []
    assert await ledger.turns_with_effect("decision", "%") == []


async def test_a_claim_that_was_given_back_still_leads_to_its_turn(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    effect = await ledger.claim(EffectKey("turn", 0, "decision", "a"), "w")
    await ledger.release(effect.key, effect.attempt)
    assert [turn.turn_id for turn in await ledger.turns_with_effect("decision", "a")] == ["turn"]
    await ledger.delete_thread("thread")
    assert await ledger.turns_with_effect("decision", "a") == []
    assert await ledger.open_turns(9) == []


async def test_turns_that_ended_are_found_by_what_they_decided(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(EffectKey("turn", 0, "decision", "a"), "w")
    await ledger.end_turn("turn")
    assert await ledger.turns_with_effect("decision", "a") == [await ledger.get_turn("turn")]


def test_it_is_a_ledger(ledger: Ledger) -> None:
    assert isinstance(ledger, Ledger)
