"""Effects in the ledger, on each of its kinds: in memory, in a SQLite file, in Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from databricks_supervisor.ledger import EffectKey, Ledger
from tests.support.ledgers import KEY, Clock, MakeLedger, new_turn


async def test_of_twenty_at_once_one_claims_the_effect(make_ledger: MakeLedger) -> None:
    ledgers = [make_ledger(), make_ledger()]
    await ledgers[0].open_turn(new_turn("turn"))
    answers = await asyncio.gather(*(ledgers[i % 2].claim(KEY, f"worker-{i}") for i in range(20)))
    assert sum(effect.mine for effect in answers) == 1
    assert {(effect.attempt, effect.worker) for effect in answers} == {
        (1, next(effect.worker for effect in answers if effect.mine))
    }


async def test_who_finds_an_effect_claimed_reads_its_outcome(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    mine = await ledger.claim(KEY, "a")
    assert mine.mine
    assert mine.outcome is None
    assert await ledger.record(KEY, mine.attempt, {"response_id": "resp_1"})
    found = await ledger.claim(KEY, "b")
    assert not found.mine
    assert (found.worker, found.outcome) == ("a", {"response_id": "resp_1"})
    read = await ledger.get_effect(KEY)
    assert read is not None
    assert (read.key, read.outcome, read.mine) == (KEY, {"response_id": "resp_1"}, False)


async def test_effects_differ_by_turn_round_kind_and_id(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.open_turn(new_turn("other", position="other"))
    keys = [
        EffectKey("turn", 0, "submit"),
        EffectKey("turn", 1, "submit"),
        EffectKey("turn", 0, "tool", "b"),
        EffectKey("turn", 0, "tool", "a"),
        EffectKey("turn", 0, "decision", "a"),
        EffectKey("other", 0, "submit"),
    ]
    assert all([(await ledger.claim(key, "w")).mine for key in keys])
    assert [effect.key for effect in await ledger.effects("turn")] == keys[:-1]


async def test_effects_are_listed_in_the_order_of_their_first_claim(make_ledger: MakeLedger) -> None:
    ledger = make_ledger(Clock())  # all at the same time
    await ledger.open_turn(new_turn("turn"))
    keys = [EffectKey("turn", 0, "tool", name) for name in ("c", "a", "b")]
    for key in keys:
        await ledger.claim(key, "w")
    await ledger.take_over(keys[0], 1, "w")
    await ledger.release(keys[1], 1)
    assert [effect.key for effect in await ledger.effects("turn")] == [keys[0], keys[2]]
    await ledger.claim(keys[1], "w")
    assert [effect.key for effect in await ledger.effects("turn")] == keys


async def test_the_first_outcome_stands(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "w")
    assert await ledger.record(KEY, 1, {"a": 1, "b": [2]})
    assert await ledger.record(KEY, 1, {"b": [2], "a": 1})  # the same again
    assert not await ledger.record(KEY, 1, {"a": 2})
    effect = await ledger.get_effect(KEY)
    assert effect is not None
    assert effect.outcome == {"a": 1, "b": [2]}


async def test_a_late_outcome_replaces_an_unknown_one(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "w")
    assert await ledger.record(KEY, 1, {"unknown": "read time-out"})
    assert not await ledger.release(KEY, 1)
    assert await ledger.record(KEY, 1, {"response_id": "late"})
    assert not await ledger.record(KEY, 1, {"unknown": "read time-out"})
    effect = await ledger.get_effect(KEY)
    assert effect is not None
    assert effect.outcome == {"response_id": "late"}


async def test_a_late_outcome_of_an_attempt_that_was_taken_over_is_refused(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "a")
    await ledger.record(KEY, 1, {"unknown": True})
    taken = await ledger.take_over(KEY, 1, "b")
    assert (taken.mine, taken.attempt, taken.worker, taken.outcome) == (True, 2, "b", None)
    assert not await ledger.record(KEY, 1, {"response_id": "late"})
    assert not await ledger.release(KEY, 1)
    assert await ledger.record(KEY, 2, {"response_id": "second"})


async def test_an_attempt_whose_outcome_came_after_all_is_not_taken_over(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "a")
    await ledger.record(KEY, 1, {"unknown": True})
    await ledger.record(KEY, 1, {"response_id": "late"})
    found = await ledger.take_over(KEY, 1, "b")
    assert (found.mine, found.attempt, found.outcome) == (False, 1, {"response_id": "late"})


async def test_of_twenty_at_once_one_takes_over(make_ledger: MakeLedger) -> None:
    ledgers = [make_ledger(), make_ledger()]
    await ledgers[0].open_turn(new_turn("turn"))
    await ledgers[0].claim(KEY, "dead")
    answers = await asyncio.gather(*(ledgers[i % 2].take_over(KEY, 1, f"worker-{i}") for i in range(20)))
    assert sum(effect.mine for effect in answers) == 1
    assert {effect.attempt for effect in answers} == {2}
    assert len({effect.worker for effect in answers}) == 1


async def test_a_released_claim_is_free_and_its_number_is_not_used_again(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "a")
    assert await ledger.release(KEY, 1)
    assert await ledger.get_effect(KEY) is None
    assert await ledger.effects("turn") == []
    assert not await ledger.release(KEY, 1)
    assert not await ledger.record(KEY, 1, {"late": True})
    again = await ledger.claim(KEY, "b")
    assert (again.mine, again.attempt, again.worker, again.outcome) == (True, 2, "b", None)
    assert not await ledger.record(KEY, 1, {"late": True})
    assert await ledger.record(KEY, 2, {"response_id": "resp"})


async def test_of_twenty_at_once_one_claims_what_was_released(make_ledger: MakeLedger) -> None:
    ledgers = [make_ledger(), make_ledger()]
    await ledgers[0].open_turn(new_turn("turn"))
    await ledgers[0].claim(KEY, "a")
    await ledgers[0].release(KEY, 1)
    answers = await asyncio.gather(*(ledgers[i % 2].claim(KEY, f"worker-{i}") for i in range(20)))
    assert sum(effect.mine for effect in answers) == 1
    assert {effect.attempt for effect in answers} == {2}


async def test_to_take_over_what_was_released_is_to_claim_it(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "a")
    await ledger.release(KEY, 1)
    taken = await ledger.take_over(KEY, 1, "b")
    assert (taken.mine, taken.attempt) == (True, 2)
    await ledger.release(KEY, 2)
    taken = await ledger.take_over(KEY, 1, "c")
    assert (taken.mine, taken.attempt) == (True, 3)


@pytest.mark.parametrize(
    "outcome",
    [
        {},
        {"text": 'Grüße, 東京, 🦆, "quoted", \\ and \n'},
        {"nul": "\x00", "half a pair": "\ud83e", "\x00": None},
        {"deep": [{"a": [1, -2.5, 1e300, True, None, ""]}], "n": 2**80},
    ],
)
async def test_an_outcome_comes_back_as_it_was(ledger: Ledger, outcome: dict[str, Any]) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "w")
    assert await ledger.record(KEY, 1, outcome)
    effect = await ledger.get_effect(KEY)
    assert effect is not None
    assert effect.outcome == outcome


async def test_what_is_not_json_is_refused_and_nothing_is_recorded(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "w")
    with pytest.raises(TypeError):
        await ledger.record(KEY, 1, {"object": object()})
    with pytest.raises(ValueError, match="JSON"):
        await ledger.record(KEY, 1, {"number": float("nan")})
    effect = await ledger.get_effect(KEY)
    assert effect is not None
    assert effect.outcome is None


async def test_changing_an_outcome_that_was_read_changes_nothing(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "w")
    given = {"list": [1]}
    await ledger.record(KEY, 1, given)
    given["list"].append(2)
    for _ in range(2):
        effect = await ledger.get_effect(KEY)
        assert effect is not None
        assert effect.outcome == {"list": [1]}
        effect.outcome["list"].append(3)
