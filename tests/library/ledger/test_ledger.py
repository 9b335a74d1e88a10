"""The rules of the ledger, on each of its kinds: in memory, in a SQLite file, in Postgres."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from databricks_supervisor.errors import TurnEndedError, TurnMismatchError
from databricks_supervisor.ledger import Effect, EffectKey, Ledger, MemoryLedger, NewTurn, SqlLedger, Turn
from tests.support.ledgers import KEY, Clock, MakeLedger, new_turn


@pytest_asyncio.fixture(params=["memory", "sqlite", "postgres"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeLedger]:
    """Makes ledgers that share what they hold (the one in memory is one and the same)."""
    made: list[Ledger] = []

    def make_one(clock: Clock | None = None) -> Ledger:
        if request.param == "memory":
            made.append(made[0] if made else MemoryLedger(*([clock] if clock else [])))
        else:
            made.append(SqlLedger(url, clock=clock))
        return made[-1]

    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{tmp_path}/folder/ledger.db"
    yield make_one
    for ledger in made:
        await ledger.aclose()


@pytest.fixture
def ledger(make: MakeLedger) -> Ledger:
    return make()


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


async def test_of_twenty_at_once_one_opens_the_turn(make: MakeLedger) -> None:
    ledgers = [make(), make()]
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


async def test_of_twenty_that_saw_the_same_one_opens_though_turns_end_at_once(make: MakeLedger) -> None:
    ledgers = [make(), make()]

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


async def test_the_latest_turn_is_the_one_opened_last(make: MakeLedger) -> None:
    ledger = make(Clock())  # all at the same time
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


async def test_the_first_end_and_the_first_delivery_stand(make: MakeLedger) -> None:
    clock = Clock()
    ledger = make(clock)
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


async def test_a_turn_knows_the_step_that_drives_it(ledger: Ledger) -> None:
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


# ---- effects


async def test_of_twenty_at_once_one_claims_the_effect(make: MakeLedger) -> None:
    ledgers = [make(), make()]
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


async def test_effects_are_listed_in_the_order_of_their_first_claim(make: MakeLedger) -> None:
    ledger = make(Clock())  # all at the same time
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


async def test_an_unknown_outcome_gives_way_to_a_late_one(ledger: Ledger) -> None:
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


async def test_of_twenty_at_once_one_takes_over(make: MakeLedger) -> None:
    ledgers = [make(), make()]
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


async def test_of_twenty_at_once_one_claims_what_was_released(make: MakeLedger) -> None:
    ledgers = [make(), make()]
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


# ---- fences


async def test_nothing_is_claimed_of_a_turn_that_has_ended_or_never_was(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "w")
    given_back = EffectKey("turn", 1, "submit")
    await ledger.claim(given_back, "w")
    await ledger.release(given_back, 1)
    await ledger.end_turn("turn")
    for key in (EffectKey("turn", 2, "submit"), EffectKey("never", 0, "submit"), given_back):
        with pytest.raises(TurnEndedError, match="nothing was done"):
            await ledger.claim(key, "w")
        with pytest.raises(TurnEndedError):
            await ledger.take_over(key, 1, "w")
    with pytest.raises(TurnEndedError):
        await ledger.take_over(KEY, 1, "w")


async def test_what_was_claimed_can_be_recorded_and_read_after_the_end(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "w")
    await ledger.end_turn("turn")
    assert await ledger.record(KEY, 1, {"response_id": "late"})
    found = await ledger.claim(KEY, "other")
    assert (found.mine, found.outcome) == (False, {"response_id": "late"})


async def test_who_ends_a_turn_sees_every_claim_of_it(make: MakeLedger) -> None:
    ledgers = [make(), make()]
    for number in range(30):
        turn_id = f"turn-{number}"
        await ledgers[0].open_turn(new_turn(turn_id, thread=turn_id))
        ending, claiming = ledgers if number % 2 else ledgers[::-1]

        async def end(ledger: Ledger = ending, turn_id: str = turn_id) -> list[str]:
            await ledger.end_turn(turn_id)
            return [effect.key.id for effect in await ledger.effects(turn_id)]

        claims = (outcome_of(claiming.claim(EffectKey(turn_id, 0, "tool", str(i)), "w")) for i in range(4))
        seen, answers = await asyncio.gather(end(), asyncio.gather(*claims))
        claimed = [answer.key.id for answer in answers if isinstance(answer, Effect) and answer.mine]
        assert len(claimed) + sum(isinstance(answer, TurnEndedError) for answer in answers) == 4
        assert sorted(seen) == sorted(claimed)


async def outcome_of(claim: Awaitable[Effect]) -> Effect | TurnEndedError:
    try:
        return await claim
    except TurnEndedError as error:
        return error


async def test_a_deleted_thread_leaves_nothing(ledger: Ledger) -> None:
    for thread in ("a", "ab", "A", "%"):
        for position in ("", "x"):
            turn_id = f"{thread}/{position}"
            await ledger.open_turn(new_turn(turn_id, thread=thread, position=position))
            await ledger.claim(EffectKey(turn_id, 0, "submit"), "w")
    await ledger.delete_thread("%")
    await ledger.delete_thread("a")
    for thread, left in {"a": False, "ab": True, "A": True, "%": False}.items():
        for position in ("", "x"):
            turn_id = f"{thread}/{position}"
            assert (await ledger.get_turn(turn_id) is not None) == left
            assert bool(await ledger.effects(turn_id)) == left
            assert (await ledger.latest_turn(thread, position) is not None) == left


async def test_deleting_a_thread_fences_whoever_still_works_on_it(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "w")
    await ledger.delete_thread("thread")
    assert not await ledger.record(KEY, 1, {"response_id": "late"})
    assert not await ledger.release(KEY, 1)
    with pytest.raises(TurnEndedError):
        await ledger.claim(KEY, "w")
    with pytest.raises(TurnEndedError):
        await ledger.take_over(KEY, 1, "w")
    _, opened = await ledger.open_turn(new_turn("turn"))  # the id is free, the thread is new
    assert opened
    assert await ledger.effects("turn") == []


async def test_no_claim_outlives_the_thread_that_is_deleted_meanwhile(make: MakeLedger) -> None:
    ledgers = [make(), make()]
    for number in range(30):
        turn_id = f"turn-{number}"
        await ledgers[0].open_turn(new_turn(turn_id, thread=turn_id))
        claims = [outcome_of(ledgers[1].claim(EffectKey(turn_id, 0, "tool", str(i)), "w")) for i in range(4)]
        await asyncio.gather(*claims[:2], ledgers[0].delete_thread(turn_id), *claims[2:])
        assert await ledgers[0].effects(turn_id) == []


# ---- clocks


async def test_times_and_ages_come_from_the_clock_that_is_given(make: MakeLedger) -> None:
    clock = Clock(1000.0)
    ledger = make(clock)
    turn, _ = await ledger.open_turn(new_turn("turn"))
    assert turn.opened_at == 1000.0
    clock.forward(10)
    effect = await ledger.claim(KEY, "w")
    assert (effect.claimed_at, effect.age) == (1010.0, 0.0)
    clock.forward(2.5)
    effect = await ledger.claim(KEY, "w")
    assert (effect.claimed_at, effect.age) == (1010.0, 2.5)
    taken = await ledger.take_over(KEY, 1, "w")
    assert (taken.claimed_at, taken.age) == (1012.5, 0.0)
    clock.forward(-5)  # a clock that is set back makes nothing younger than new
    assert [effect.age for effect in await ledger.effects("turn")] == [0.0]


async def test_without_a_clock_the_time_is_that_of_the_database(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    effect = await ledger.claim(KEY, "w")
    assert abs(effect.claimed_at - time.time()) < 60  # the same machine here
    assert 0 <= effect.age < 60
    await ledger.end_turn("turn")
    turn = await ledger.get_turn("turn")
    assert turn is not None
    assert turn.ended_at is not None
    assert turn.opened_at <= effect.claimed_at <= turn.ended_at


# ---- loops


async def test_one_ledger_serves_several_loops_at_once(ledger: Ledger) -> None:
    keys = [EffectKey("turn", 0, "tool", str(number)) for number in range(10)]
    await ledger.open_turn(new_turn("turn"))

    async def claim_all(worker: str) -> list[str]:
        answers = await asyncio.gather(*(ledger.claim(key, worker) for key in keys))
        return [effect.key.id for effect in answers if effect.mine]

    mine: list[str] = []

    def short_lived_loops(worker: str) -> None:
        for _ in range(3):
            mine.extend(asyncio.run(claim_all(worker)))

    threads = [threading.Thread(target=short_lived_loops, args=(f"thread-{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    mine += await claim_all("main")
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(mine) == [key.id for key in keys]


async def test_a_closed_ledger_can_be_used_again(ledger: Ledger) -> None:
    await ledger.aclose()
    await ledger.open_turn(new_turn("turn"))
    await ledger.aclose()
    await ledger.aclose()
    assert await ledger.get_turn("turn") is not None


async def test_cancelling_the_caller_does_not_lose_the_step(ledger: Ledger) -> None:
    await ledger.open_turn(new_turn("turn"))
    claiming = asyncio.ensure_future(ledger.claim(KEY, "w"))
    await asyncio.sleep(0)
    claiming.cancel()
    await asyncio.gather(claiming, return_exceptions=True)
    # Whether it was claimed is a race; that the ledger still answers, and says the same to all, is not.
    first, second = await ledger.claim(KEY, "x"), await ledger.claim(KEY, "y")
    assert (first.worker, first.attempt) == (second.worker, second.attempt)


# ---- finding turns


async def test_open_turns_are_found_the_ones_opened_last_first(make: MakeLedger) -> None:
    clock = Clock()
    ledger = make(clock)
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


async def test_turns_are_found_by_what_they_decide(make: MakeLedger) -> None:
    clock = Clock()
    ledger = make(clock)
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
