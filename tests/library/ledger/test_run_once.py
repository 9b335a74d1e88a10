"""A side effect happens once, whatever happens around it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from databricks_supervisor.errors import LedgerError, TurnEndedError
from databricks_supervisor.ledger import Effect, EffectKey, MemoryLedger
from databricks_supervisor.ledger.run_once import (
    CLAIM_SLACK_S,
    Done,
    Unknown,
    peek,
    run_once,
    run_uncancelled,
)
from databricks_supervisor.ledger.worker import this_worker
from tests.support.ledgers import KEY, Clock, new_turn

OTHER_HOST = "elsewhere/1/1"
LIFETIME_S = 30.0

Outcome = dict[str, Any]


class Refused(Exception):
    """Proof that nothing happened."""


class Action:
    """A side effect that counts.

    Attributes:
        runs: How often it was begun.
        begun: Set when it is.
        go_on: What it waits for.
        ends: Exceptions to end with, in order; after these it succeeds.
    """

    def __init__(self, *ends: BaseException) -> None:
        self.runs, self.ends = 0, list(ends)
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def __call__(self, attempt: int) -> Outcome:
        self.runs += 1
        self.begun.set()
        await self.go_on.wait()
        if self.ends:
            raise self.ends.pop(0)
        return {"response_id": f"job of attempt {attempt}"}


def patiently() -> Action:
    """An action that waits until it may go on."""
    action = Action()
    action.go_on.clear()
    return action


async def opened(clock: Clock | None = None) -> MemoryLedger:
    ledger = MemoryLedger(clock or Clock())
    await ledger.open_turn(new_turn("turn"))
    return ledger


async def do(
    ledger: MemoryLedger, action: Callable[[int], Awaitable[Outcome]], **options: Any
) -> Done | Unknown:
    return await run_once(
        ledger,
        KEY,
        action,
        lifetime_s=LIFETIME_S,
        did_nothing=lambda error: isinstance(error, Refused),
        **options,
    )


class Sleeps(list[float]):
    """How long was slept, in order, although it took no time."""

    def __init__(self) -> None:
        self._more = asyncio.Event()

    def append(self, seconds: float) -> None:
        super().append(seconds)
        self._more.set()

    async def reach(self, count: int) -> None:
        """Wait until there were so many."""
        while len(self) < count:
            self._more.clear()
            await self._more.wait()


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    """Sleeping takes no time."""
    sleeps = Sleeps()
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        if seconds:
            sleeps.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", at_once)
    return sleeps


# ---- once


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


async def claimed_by(worker: str, clock: Clock) -> tuple[MemoryLedger, Effect]:
    ledger = await opened(clock)
    return ledger, await ledger.claim(KEY, worker)


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


# ---- an outcome that comes too late


async def taken_over(ledger: MemoryLedger, clock: Clock, action: Action) -> asyncio.Task[Any]:
    """Another host allowed itself a second attempt while the action of the first one still runs."""
    late: list[Outcome] = []

    async def on_late(outcome: Outcome) -> None:
        late.append(outcome)

    async def first() -> tuple[Done | Unknown, list[Outcome]]:
        return await do(ledger, action, on_late=on_late), late

    task = asyncio.ensure_future(first())
    await action.begun.wait()
    clock.forward(LIFETIME_S + CLAIM_SLACK_S + 1)
    taken = await ledger.take_over(KEY, 1, OTHER_HOST)
    assert taken.mine
    return task


async def test_an_outcome_that_comes_after_a_take_over_is_handed_to_who_can_undo_it() -> None:
    clock, action = Clock(), patiently()
    ledger = await opened(clock)
    task = await taken_over(ledger, clock, action)
    await ledger.record(KEY, 2, {"id": "theirs"})
    action.go_on.set()
    assert await task == (Done({"id": "theirs"}, now=False), [{"response_id": "job of attempt 1"}])


async def test_an_outcome_that_comes_after_the_thread_was_deleted_says_so() -> None:
    ledger, action, late = await opened(), patiently(), []

    async def on_late(outcome: Outcome) -> None:
        late.append(outcome)

    task = asyncio.ensure_future(do(ledger, action, on_late=on_late))
    await action.begun.wait()
    await ledger.delete_thread("thread")
    action.go_on.set()
    with pytest.raises(TurnEndedError, match="deleted"):
        await task
    assert late == [{"response_id": "job of attempt 1"}]


async def test_a_known_outcome_replaces_an_unknown_one_of_the_same_attempt() -> None:
    ledger = await opened()
    await ledger.claim(KEY, this_worker())
    await ledger.record(KEY, 1, {"unknown": "time-out"})
    assert isinstance(await peek(ledger, KEY, lifetime_s=LIFETIME_S), Unknown)
    assert await ledger.record(KEY, 1, {"id": "after all"})
    assert await do(ledger, Action()) == Done({"id": "after all"}, now=False)


# ---- cancellation


async def test_cancelling_in_the_middle_does_not_cut_the_action() -> None:
    ledger, action = await opened(), patiently()
    task = asyncio.ensure_future(do(ledger, action))
    await action.begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # Somebody presses Ctrl-C twice.
    await asyncio.sleep(0)
    assert not task.done()
    action.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await peek(ledger, KEY, lifetime_s=LIFETIME_S) == Done(
        {"response_id": "job of attempt 1"}, now=False
    )


async def test_cancelling_in_the_middle_of_a_failure_is_still_cancelling() -> None:
    ledger, action = await opened(), patiently()
    action.ends.append(Refused("refused"))
    task = asyncio.ensure_future(do(ledger, action))
    await action.begun.wait()
    task.cancel()
    action.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ledger.get_effect(KEY) is None


async def test_cancelling_who_only_waits_cuts_at_once() -> None:
    ledger, _ = await claimed_by(OTHER_HOST, Clock())
    task = asyncio.ensure_future(do(ledger, Action()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancel_in_the_moment_of_success_is_not_swallowed() -> None:
    ended = asyncio.Event()

    async def section() -> str:
        await ended.wait()
        return "done"

    task = asyncio.ensure_future(run_uncancelled(section()))
    await asyncio.sleep(0)
    ended.set()
    for _ in range(2):  # The section is done, and whoever awaits it has not been told yet.
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_section_hands_on_its_result_and_its_error() -> None:
    async def good() -> int:
        return 7

    async def bad() -> int:
        raise KeyError("why")

    assert await run_uncancelled(good()) == 7
    with pytest.raises(KeyError):
        await run_uncancelled(bad())


async def test_a_section_that_is_cancelled_from_within_is_cancelled() -> None:
    async def section() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await run_uncancelled(section())


def test_a_run_that_is_shut_down_waits_for_the_outcome() -> None:
    """As on Ctrl-C: ``asyncio.run`` cancels the main task, and ends when it has."""
    ledger = asyncio.run(opened())

    async def main() -> None:
        action = patiently()
        running = asyncio.current_task()
        assert running is not None
        loop = asyncio.get_running_loop()
        loop.call_later(0.001, running.cancel)
        loop.call_later(0.004, action.go_on.set)
        await do(ledger, action)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert asyncio.run(peek(ledger, KEY, lifetime_s=LIFETIME_S)) == Done(
        {"response_id": "job of attempt 1"}, now=False
    )


def test_a_loop_that_closes_under_the_action_leaves_a_note_that_the_outcome_is_unknown() -> None:
    """The main task ends first: ``asyncio.run`` then cancels every other one, the section itself too."""
    ledger = asyncio.run(opened())

    async def main() -> None:
        action = patiently()
        background = asyncio.ensure_future(do(ledger, action))
        await action.begun.wait()
        assert not background.done()

    asyncio.run(main())
    found = asyncio.run(peek(ledger, KEY, lifetime_s=LIFETIME_S))
    assert found == Unknown(1, "CancelledError", 1_000_000.0)


# ---- a ledger that is away


class Forgetful(MemoryLedger):
    """A ledger whose database is away for the first few records."""

    def __init__(self, away: int, *, after_writing: bool = False) -> None:
        super().__init__(Clock())
        self.away, self.after_writing = away, after_writing

    async def record(self, key: EffectKey, attempt: int, outcome: Outcome) -> bool:
        if self.away:
            self.away -= 1
            if self.after_writing:
                await super().record(key, attempt, outcome)
            raise LedgerError("the database is away")
        return await super().record(key, attempt, outcome)


@pytest.mark.parametrize("after_writing", [False, True])
async def test_an_outcome_is_recorded_when_the_ledger_comes_back(
    after_writing: bool, sleeps: Sleeps, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, action = Forgetful(3, after_writing=after_writing), Action()
    await ledger.open_turn(new_turn("turn"))
    assert await do(ledger, action) == Done({"response_id": "job of attempt 1"}, now=True)
    assert await peek(ledger, KEY, lifetime_s=LIFETIME_S) == Done(
        {"response_id": "job of attempt 1"}, now=False
    )
    assert sleeps == [0.1, 0.2, 0.4]
    assert caplog.text.count("event=record_failed") == 3
    assert "job of attempt 1" in caplog.text


async def test_an_outcome_is_not_lost_when_the_ledger_stays_away(sleeps: Sleeps) -> None:
    ledger, action = Forgetful(100), Action()
    await ledger.open_turn(new_turn("turn"))
    assert await do(ledger, action) == Done({"response_id": "job of attempt 1"}, now=True)
    assert sum(sleeps) < 30


async def test_an_unknown_outcome_is_told_even_if_it_cannot_be_recorded(sleeps: Sleeps) -> None:
    ledger = Forgetful(100)
    await ledger.open_turn(new_turn("turn"))
    assert isinstance(await do(ledger, Action(OSError("dead"))), Unknown)
