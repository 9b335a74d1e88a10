"""A side effect whose caller is cancelled, whose outcome comes too late, or whose ledger is away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from databricks_supervisor.errors import LedgerError, TurnEndedError
from databricks_supervisor.ledger import EffectKey, MemoryLedger
from databricks_supervisor.ledger.run_once import CLAIM_SLACK_S, Done, Unknown, peek, run_uncancelled
from databricks_supervisor.ledger.worker import this_worker
from tests.library.ledger.counted_action import (
    LIFETIME_S,
    OTHER_HOST,
    Action,
    Outcome,
    Refused,
    Sleeps,
    claimed_by,
    do,
    opened,
    patiently,
)
from tests.support.ledgers import KEY, Clock, new_turn

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
