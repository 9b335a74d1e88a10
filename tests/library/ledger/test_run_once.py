"""A side effect happens once, whatever happens around it."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from databricks_supervisor.errors import TurnEndedError
from databricks_supervisor.ledger import EffectKey, MemoryLedger
from databricks_supervisor.ledger.run_once import CLAIM_SLACK_S, Done, Unknown, peek, run_once
from databricks_supervisor.ledger.worker import this_worker
from tests.library.ledger.counted_action import (
    LIFETIME_S,
    OTHER_HOST,
    Action,
    Refused,
    Sleeps,
    claimed_by,
    do,
    opened,
    patiently,
)
from tests.support.ledgers import KEY, Clock

# ---- done and recorded


async def test_it_happens_and_is_recorded() -> None:
    ledger, action = await opened(), Action()
    assert await do(ledger, action) == Done({"response_id": "job of attempt 1"}, now=True)
    effect = await ledger.get_effect(KEY)
    assert effect is not None
    assert effect.outcome == {"response_id": "job of attempt 1"}
    assert effect.worker == this_worker()


async def test_who_comes_later_gets_what_was_recorded() -> None:
    ledger, action = await opened(), Action()
    await do(ledger, action)
    assert await do(ledger, action) == Done({"response_id": "job of attempt 1"}, now=False)
    assert action.runs == 1


async def test_of_a_hundred_at_once_one_does_it_and_all_get_its_outcome(sleeps: Sleeps) -> None:
    ledger, action = await opened(), patiently()
    tasks = [asyncio.ensure_future(do(ledger, action)) for _ in range(100)]
    await action.begun.wait()
    action.go_on.set()
    results = await asyncio.gather(*tasks)
    assert action.runs == 1
    assert sum(isinstance(result, Done) and result.now for result in results) == 1
    assert {result.outcome["response_id"] for result in results if isinstance(result, Done)} == {
        "job of attempt 1"
    }


async def test_different_keys_are_different_effects() -> None:
    ledger, action = await opened(), Action()
    for key in (
        KEY,
        EffectKey("turn", 1, "submit"),
        EffectKey("turn", 0, "tool", "call"),
        EffectKey("turn", 0, "tool"),
    ):
        await run_once(ledger, key, action, lifetime_s=LIFETIME_S)
    assert action.runs == 4


async def test_nothing_is_begun_for_a_turn_that_is_over() -> None:
    ledger, action = await opened(), Action()
    await ledger.end_turn("turn")
    with pytest.raises(TurnEndedError):
        await do(ledger, action)
    assert action.runs == 0


async def test_nothing_is_begun_for_a_turn_that_nobody_opened() -> None:
    action = Action()
    with pytest.raises(TurnEndedError):
        await do(MemoryLedger(), action)
    assert action.runs == 0


# ---- what proves that nothing happened


async def test_a_claim_is_given_back_when_nothing_happened() -> None:
    ledger, action = await opened(), Action(Refused("refused"))
    with pytest.raises(Refused, match="refused") as raised:
        await do(ledger, action)
    assert raised.value.__cause__ is None
    assert await ledger.get_effect(KEY) is None
    assert await do(ledger, action) == Done({"response_id": "job of attempt 2"}, now=True)


async def test_who_waits_for_a_claim_that_is_given_back_does_it_instead(sleeps: Sleeps) -> None:
    ledger, first, second = await opened(), patiently(), Action()
    first.ends.append(Refused("refused"))
    one = asyncio.ensure_future(do(ledger, first))
    await first.begun.wait()
    other = asyncio.ensure_future(do(ledger, second))
    await asyncio.sleep(0)
    assert second.runs == 0
    first.go_on.set()
    with pytest.raises(Refused, match="refused"):
        await one
    assert await other == Done({"response_id": "job of attempt 2"}, now=True)


# ---- what proves nothing


async def test_any_other_failure_leaves_the_outcome_unknown() -> None:
    ledger, action = await opened(), Action(OSError("the line went dead"))
    result = await do(ledger, action)
    assert result == Unknown(1, "the line went dead", 1_000_000.0)
    assert await do(ledger, action) == result
    assert await peek(ledger, KEY, lifetime_s=LIFETIME_S) == result
    assert action.runs == 1


async def test_a_failure_without_words_is_named() -> None:
    assert await do(await opened(), Action(TimeoutError())) == Unknown(1, "TimeoutError", 1_000_000.0)


async def test_what_is_unknown_is_repeated_only_with_a_permit_for_that_very_attempt() -> None:
    ledger, action = await opened(), Action(OSError("dead"), OSError("dead again"))
    await do(ledger, action)
    assert isinstance(await do(ledger, action, permit=7), Unknown)
    assert action.runs == 1
    assert await do(ledger, action, permit=1) == Unknown(2, "dead again", 1_000_000.0)
    assert await do(ledger, action, permit=1) == Unknown(2, "dead again", 1_000_000.0)
    assert action.runs == 2
    assert await do(ledger, action, permit=2) == Done({"response_id": "job of attempt 3"}, now=True)


async def test_two_permits_for_one_attempt_make_one_attempt(sleeps: Sleeps) -> None:
    ledger, action = await opened(), Action(OSError("dead"))
    await do(ledger, action)
    results = await asyncio.gather(*(do(ledger, action, permit=1) for _ in range(20)))
    assert action.runs == 2
    assert {result.outcome["response_id"] for result in results if isinstance(result, Done)} == {
        "job of attempt 2"
    }


async def test_a_permit_is_not_needed_once_the_outcome_is_known() -> None:
    ledger, action = await opened(), Action()
    await do(ledger, action)
    assert await do(ledger, action, permit=1) == Done({"response_id": "job of attempt 1"}, now=False)
    assert action.runs == 1


# ---- other workers


def dead_worker() -> str:
    """The name of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return f"{this_worker().partition('/')[0]}/{process.pid}/1"


async def test_the_claim_of_a_worker_that_is_dead_is_unknown_at_once() -> None:
    ledger, effect = await claimed_by(dead_worker(), Clock())
    action = Action()
    assert await do(ledger, action) == Unknown(1, "the process that started it has ended", effect.claimed_at)
    assert action.runs == 0


@pytest.mark.parametrize("worker", [OTHER_HOST, this_worker()], ids=["elsewhere", "here"])
async def test_the_young_claim_of_a_worker_that_may_live_is_waited_for(worker: str, sleeps: Sleeps) -> None:
    ledger, effect = await claimed_by(worker, Clock())
    assert await peek(ledger, KEY, lifetime_s=LIFETIME_S) is None
    action = Action()
    waiting = asyncio.ensure_future(do(ledger, action))
    await sleeps.reach(5)
    assert not waiting.done()
    assert await ledger.record(KEY, effect.attempt, {"id": "theirs"})
    assert await waiting == Done({"id": "theirs"}, now=False)
    assert action.runs == 0


async def test_a_permit_does_not_help_while_the_claim_is_young(sleeps: Sleeps) -> None:
    ledger, effect = await claimed_by(OTHER_HOST, Clock())
    waiting = asyncio.ensure_future(do(ledger, Action(), permit=1))
    await sleeps.reach(5)
    assert not waiting.done()
    await ledger.record(KEY, effect.attempt, {"id": "theirs"})
    assert await waiting == Done({"id": "theirs"}, now=False)


async def test_a_claim_is_young_for_as_long_as_the_action_may_take_and_a_little_longer() -> None:
    clock = Clock()
    ledger, _ = await claimed_by(OTHER_HOST, clock)
    clock.forward(LIFETIME_S + CLAIM_SLACK_S)
    assert await peek(ledger, KEY, lifetime_s=LIFETIME_S) is None
    clock.forward(0.001)
    assert isinstance(await peek(ledger, KEY, lifetime_s=LIFETIME_S), Unknown)
    assert isinstance(await do(ledger, Action()), Unknown)


async def test_whoever_waits_gives_up_when_the_claim_gets_old(sleeps: Sleeps) -> None:
    clock = Clock()
    ledger, _ = await claimed_by(OTHER_HOST, clock)
    waiting = asyncio.ensure_future(do(ledger, Action()))
    await sleeps.reach(3)
    clock.forward(LIFETIME_S + CLAIM_SLACK_S + 1)
    assert isinstance(await waiting, Unknown)


async def test_waiting_gets_slower_but_not_slower_than_a_second(sleeps: Sleeps) -> None:
    ledger, effect = await claimed_by(OTHER_HOST, Clock())
    waiting = asyncio.ensure_future(do(ledger, Action()))
    await sleeps.reach(40)
    await ledger.record(KEY, effect.attempt, {})
    await waiting
    assert sleeps == sorted(sleeps)
    assert sleeps[-1] == 1.0


async def test_looking_does_not_begin_anything() -> None:
    ledger = await opened()
    assert await peek(ledger, KEY, lifetime_s=LIFETIME_S) is None
    assert await ledger.get_effect(KEY) is None


async def test_looking_tells_what_was_done() -> None:
    ledger = await opened()
    await do(ledger, Action())
    assert await peek(ledger, KEY, lifetime_s=LIFETIME_S) == Done(
        {"response_id": "job of attempt 1"}, now=False
    )
