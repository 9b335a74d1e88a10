"""What a turn that ended and a thread that was deleted do not allow any more; clocks; and loops."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable

import pytest

from databricks_supervisor.errors import TurnEndedError
from databricks_supervisor.ledger import Effect, EffectKey, Ledger
from tests.support.ledgers import KEY, Clock, MakeLedger, new_turn

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


async def test_who_ends_a_turn_sees_every_claim_of_it(make_ledger: MakeLedger) -> None:
    ledgers = [make_ledger(), make_ledger()]
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


async def test_no_claim_outlives_the_thread_that_is_deleted_meanwhile(make_ledger: MakeLedger) -> None:
    ledgers = [make_ledger(), make_ledger()]
    for number in range(30):
        turn_id = f"turn-{number}"
        await ledgers[0].open_turn(new_turn(turn_id, thread=turn_id))
        claims = [outcome_of(ledgers[1].claim(EffectKey(turn_id, 0, "tool", str(i)), "w")) for i in range(4)]
        await asyncio.gather(*claims[:2], ledgers[0].delete_thread(turn_id), *claims[2:])
        assert await ledgers[0].effects(turn_id) == []


# ---- clocks


async def test_times_and_ages_come_from_the_clock_that_is_given(make_ledger: MakeLedger) -> None:
    clock = Clock(1000.0)
    ledger = make_ledger(clock)
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
