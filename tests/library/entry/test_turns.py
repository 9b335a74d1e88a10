"""The rules of entry, one by one: what makes two questions the same (docs/guarantees.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from databricks_supervisor.entry.inputs import CallerInput, read_input
from databricks_supervisor.entry.turns import Busy, IncomingQuestion, TurnMatch, find_or_open_turn, new_job
from databricks_supervisor.errors import InvalidInputError, ThreadMovedError, TurnMismatchError
from databricks_supervisor.items.history import question_digest
from databricks_supervisor.ledger import EffectKey, Ledger, MemoryLedger, NewTurn, Turn
from databricks_supervisor.settings import Settings
from databricks_supervisor.state import Job


@dataclass(frozen=True)
class Place:
    """Where a question comes in, and what the thread's state says there."""

    thread: str
    position: str
    step: int | None
    job: Job | None
    forked: bool
    identity: str | None


TOP = Place(thread="t", position="", step=None, job=None, forked=False, identity=None)
UNDER = replace(TOP, position="ask#3", step=7)


def ask(
    text: str = "How much?",
    *,
    turn_id: Any = None,
    history: list[BaseMessage] | None = None,
    follows: str | None = None,
) -> CallerInput:
    return read_question([*(history or []), HumanMessage(text)], turn_id, follows)


def read_question(
    messages: list[BaseMessage], turn_id: Any = None, follows: str | None = None
) -> CallerInput:
    return read_input({"messages": messages, "turn_id": turn_id, "follows": follows}, Settings(model="m"))


async def enter(ledger: Ledger, where: Place, asked: CallerInput) -> TurnMatch:
    question = IncomingQuestion(
        messages=asked.messages,
        digest=question_digest(asked.messages),
        turn_id=asked.turn_id,
        follows=asked.follows,
        thread=where.thread,
        position=where.position,
        step=where.step,
        forked=where.forked,
        identity=where.identity,
    )
    return await find_or_open_turn(ledger, question, where.job)


def job_of(turn: Turn, *, ended: bool = False) -> Job:
    return {**new_job(turn.turn_id, []), "ended": ended}


async def opened(ledger: MemoryLedger, where: Place = TOP, asked: CallerInput | None = None) -> TurnMatch:
    entered = await enter(ledger, where, asked or ask())
    assert entered.how == "new"
    return entered


async def submitted(ledger: MemoryLedger, turn: Turn) -> None:
    key = EffectKey(turn.turn_id, 0, "submit")
    claimed = await ledger.claim(key, "worker")
    assert await ledger.record(key, claimed.attempt, {"response_id": "resp_1", "status": "queued"})


async def ended(ledger: MemoryLedger, where: Place = TOP, asked: CallerInput | None = None) -> Turn:
    turn = (await opened(ledger, where, asked)).turn
    await submitted(ledger, turn)
    await ledger.end_turn(turn.turn_id)
    return turn


# ---- a turn is open


async def test_the_first_question_opens_a_turn() -> None:
    asked = ask()
    entered = await enter(MemoryLedger(), replace(UNDER, identity="ada"), asked)
    turn = entered.turn
    assert entered.how == "new"
    assert (turn.thread, turn.position, turn.step, turn.identity) == ("t", "ask#3", 7, "ada")
    assert turn.message_ids == (asked.messages[0].id,)


@pytest.mark.parametrize("where", [TOP, UNDER], ids=["top level", "under a parent"])
@pytest.mark.parametrize(("known", "how"), [(True, "resume"), (False, "reattach")])
async def test_the_same_question_joins_the_open_turn(where: Place, known: bool, how: str) -> None:
    ledger = MemoryLedger()
    first = await opened(ledger, where)
    again = await enter(ledger, replace(where, job=job_of(first.turn) if known else None), ask())
    assert again.turn.turn_id == first.turn.turn_id
    assert again.how == how
    same_ids = [m.id for m in again.messages] == [m.id for m in first.messages]
    assert same_ids is (where is TOP)  # Under a parent, the parent's ids stand.


async def test_another_question_finds_the_thread_busy() -> None:
    ledger = MemoryLedger()
    first = await opened(ledger)
    with pytest.raises(Busy) as busy:
        await enter(ledger, TOP, ask("What else?"))
    assert busy.value.turn.turn_id == first.turn.turn_id


@pytest.mark.parametrize(
    "elsewhere",
    [replace(TOP, thread="u"), replace(TOP, position="other"), replace(UNDER, position="ask#4")],
    ids=["thread", "position", "Send"],
)
async def test_elsewhere_the_same_question_is_another_turn(elsewhere: Place) -> None:
    ledger = MemoryLedger()
    first = await opened(ledger)
    await opened(ledger, UNDER)
    other = await enter(ledger, elsewhere, ask())
    assert other.how == "new"
    assert other.turn.turn_id != first.turn.turn_id


async def test_joining_moves_the_step() -> None:
    ledger = MemoryLedger()
    first = await opened(ledger, UNDER)
    await enter(ledger, replace(UNDER, step=9), ask())
    turn = await ledger.get_turn(first.turn.turn_id)
    assert turn is not None
    assert turn.step == 9


async def test_the_identity_does_not_make_another_turn() -> None:
    ledger = MemoryLedger()
    first = await opened(ledger, replace(TOP, identity="ada"))
    again = await enter(ledger, replace(TOP, identity="bob"), ask())
    assert again.turn.turn_id == first.turn.turn_id


# ---- the last turn has ended


async def test_an_end_that_the_state_has_was_delivered() -> None:
    ledger = MemoryLedger()
    first = await ended(ledger)
    again = await enter(ledger, replace(TOP, job=job_of(first, ended=True)), ask())
    assert again.how == "new"
    assert again.turn.turn_id != first.turn_id
    assert not again.unfinished


@pytest.mark.parametrize(("known", "how"), [(True, "resume"), (False, "reattach")])
async def test_an_end_that_the_state_lacks_is_delivered_to_the_same_question(known: bool, how: str) -> None:
    ledger = MemoryLedger()
    first = await ended(ledger)
    again = await enter(ledger, replace(TOP, job=job_of(first) if known else None), ask())
    assert (again.turn.turn_id, again.how) == (first.turn_id, how)


async def test_another_question_leaves_an_undelivered_end_and_says_so() -> None:
    ledger = MemoryLedger()
    first = await ended(ledger)
    other = await enter(ledger, replace(TOP, job=job_of(first)), ask("What else?"))
    assert other.how == "new"
    assert other.unfinished


async def test_an_end_that_was_marked_as_delivered_is_not_delivered_again() -> None:
    ledger = MemoryLedger()
    first = await ended(ledger)
    await ledger.mark_delivered(first.turn_id)
    assert (await enter(ledger, TOP, ask())).turn.turn_id != first.turn_id


@pytest.mark.parametrize(("step", "same"), [(7, True), (8, False), (6, False)])
async def test_under_a_parent_the_same_step_gets_the_recorded_end(step: int, same: bool) -> None:
    ledger = MemoryLedger()
    first = await ended(ledger, UNDER)
    again = await enter(ledger, replace(UNDER, step=step), ask())
    assert (again.turn.turn_id == first.turn_id) is same
    assert again.how == ("reattach" if same else "new")


async def test_the_step_that_counts_is_the_one_that_drove_the_turn_last() -> None:
    ledger = MemoryLedger()
    first = (await opened(ledger, UNDER)).turn
    await submitted(ledger, first)
    await enter(ledger, replace(UNDER, step=9), ask())
    await ledger.end_turn(first.turn_id)
    assert (await enter(ledger, replace(UNDER, step=9), ask())).turn.turn_id == first.turn_id
    assert (await enter(ledger, replace(UNDER, step=7), ask())).turn.turn_id != first.turn_id


async def test_a_turn_that_ended_without_a_submission_has_no_end_to_deliver() -> None:
    ledger = MemoryLedger()
    first = (await opened(ledger)).turn
    await ledger.end_turn(first.turn_id)
    assert (await enter(ledger, TOP, ask())).turn.turn_id != first.turn_id


async def test_a_turn_whose_submission_is_unknown_has_no_end_to_deliver() -> None:
    ledger = MemoryLedger()
    first = (await opened(ledger)).turn
    key = EffectKey(first.turn_id, 0, "submit")
    await ledger.record(key, (await ledger.claim(key, "w")).attempt, {"unknown": "cut"})
    await ledger.end_turn(first.turn_id)
    assert (await enter(ledger, TOP, ask())).turn.turn_id != first.turn_id


async def test_a_fork_asks_anew() -> None:
    ledger = MemoryLedger()
    first = await ended(ledger)
    forked = replace(TOP, forked=True, job=None)
    assert (await enter(ledger, forked, ask())).turn.turn_id != first.turn_id


async def test_only_the_last_turn_counts() -> None:
    ledger = MemoryLedger()
    first = await ended(ledger, asked=ask("One"))
    second = await enter(ledger, replace(TOP, job=job_of(first, ended=True)), ask("Two"))
    await submitted(ledger, second.turn)
    await ledger.end_turn(second.turn.turn_id)
    third = await enter(ledger, replace(TOP, job=job_of(second.turn, ended=True)), ask("One"))
    assert third.how == "new"
    assert third.turn.turn_id != first.turn_id


async def test_a_state_that_ended_first_ends_the_turn() -> None:
    """The process died after the checkpoint that has the end, and before the ledger had it."""
    ledger = MemoryLedger()
    first = (await opened(ledger)).turn
    await submitted(ledger, first)
    other = await enter(ledger, replace(TOP, job=job_of(first, ended=True)), ask("What else?"))
    assert other.how == "new"
    assert not other.unfinished
    turn = await ledger.get_turn(first.turn_id)
    assert turn is not None
    assert turn.ended_at is not None


# ---- the caller chooses the turn id


async def test_a_chosen_id_is_the_id() -> None:
    assert (await enter(MemoryLedger(), TOP, ask(turn_id="mine"))).turn.turn_id == "mine"


@pytest.mark.parametrize("delivered", [True, False])
async def test_a_chosen_id_settles_what_is_a_repeat_whatever_was_delivered(delivered: bool) -> None:
    ledger = MemoryLedger()
    first = await ended(ledger, asked=ask(turn_id="mine"))
    where = replace(TOP, job=job_of(first, ended=True)) if delivered else TOP
    again = await enter(ledger, where, ask(turn_id="mine"))
    assert (again.turn.turn_id, again.how) == ("mine", "resume" if delivered else "reattach")


async def test_a_new_chosen_id_is_a_new_turn_though_an_end_is_undelivered() -> None:
    ledger = MemoryLedger()
    await ended(ledger, asked=ask(turn_id="one"))
    assert (await enter(ledger, TOP, ask(turn_id="two"))).turn.turn_id == "two"


async def test_a_new_chosen_id_joins_the_open_turn_of_the_same_question() -> None:
    """At most one turn is open at a place; what it is called does not change that."""
    ledger = MemoryLedger()
    await opened(ledger, asked=ask(turn_id="one"))
    assert (await enter(ledger, TOP, ask(turn_id="two"))).turn.turn_id == "one"


@pytest.mark.parametrize(
    ("where", "text"),
    [(replace(TOP, thread="u"), "How much?"), (UNDER, "How much?"), (TOP, "What else?")],
    ids=["thread", "position", "question"],
)
@pytest.mark.parametrize("over", [True, False])
async def test_a_chosen_id_of_something_else_is_refused(where: Place, text: str, over: bool) -> None:
    ledger = MemoryLedger()
    await (ended if over else opened)(ledger, asked=ask(turn_id="mine"))
    with pytest.raises(TurnMismatchError, match="mine"):
        await enter(ledger, where, ask(text, turn_id="mine"))


# ---- the caller says what it follows


async def test_the_same_question_that_was_asked_before_the_other_s_turn_came_is_that_turn() -> None:
    ledger = MemoryLedger()
    first = await ended(ledger)
    delivered = replace(TOP, job=job_of(first, ended=True))
    again = await enter(ledger, delivered, ask(follows="", turn_id="second"))
    assert (again.turn.turn_id, again.how) == (first.turn_id, "resume")
    anew = await enter(ledger, delivered, ask(follows=first.turn_id))
    assert (anew.how, anew.turn.turn_id != first.turn_id) == ("new", True)


@pytest.mark.parametrize("over", [True, False])
async def test_another_question_does_not_follow_what_its_asker_has_not_seen(over: bool) -> None:
    ledger = MemoryLedger()
    await (ended if over else opened)(ledger)
    with pytest.raises(ThreadMovedError, match="Look again"):
        await enter(ledger, TOP, ask("What else?", follows=""))
    with pytest.raises(ThreadMovedError, match="Look again"):
        await enter(MemoryLedger(), TOP, ask(follows="of a thread that was deleted since"))


async def test_a_turn_that_comes_and_ends_while_another_one_is_opened_is_seen() -> None:
    class Quick(MemoryLedger):
        async def open_turn(self, turn: NewTurn, after: str | None = None) -> tuple[Turn, bool]:
            if not turn.message_ids[0].startswith("other"):
                await ended(self, asked=read_question([HumanMessage("How much?", id="other")]))
            return await super().open_turn(turn, after)

    entered = await enter(Quick(), TOP, ask())
    assert (entered.how, entered.turn.message_ids) == ("reattach", ("other",))
    with pytest.raises(ThreadMovedError):
        await enter(Quick(), TOP, ask("What else?"))


# ---- what a question is


@pytest.mark.parametrize("turn_id", ["", "  ", 7, True, ["x"], {}, "a\x00b", "a\ud800"])
def test_rubbish_is_no_turn_id(turn_id: Any) -> None:
    with pytest.raises(InvalidInputError, match="turn_id"):
        ask(turn_id=turn_id)


@pytest.mark.parametrize("messages", [[], [HumanMessage("")], [SystemMessage("")], [HumanMessage([])]])
def test_a_question_that_says_nothing_is_refused(messages: list[BaseMessage]) -> None:
    with pytest.raises(InvalidInputError, match=r"empty|no messages"):
        read_question(messages)


def test_messages_without_an_id_get_one_and_others_keep_theirs() -> None:
    asked = read_question([HumanMessage("a"), HumanMessage("b", id="mine")])
    assert asked.messages[0].id
    assert asked.messages[1].id == "mine"


async def test_history_before_the_question_does_not_make_another_turn() -> None:
    ledger = MemoryLedger()
    first = await opened(ledger)
    history: list[BaseMessage] = [
        HumanMessage("Hello"),
        AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "c"}]),
        ToolMessage("3", tool_call_id="c"),
        AIMessage("Hi."),
    ]
    again = await enter(ledger, TOP, ask(history=history))
    assert again.turn.turn_id == first.turn.turn_id


async def test_two_messages_are_another_question_than_one() -> None:
    ledger = MemoryLedger()
    await opened(ledger)
    with pytest.raises(Busy):
        await enter(ledger, TOP, read_question([HumanMessage("How much?"), HumanMessage("Now.")]))


async def test_ids_and_notation_do_not_make_another_question() -> None:
    ledger = MemoryLedger()
    first = await opened(ledger)
    noted = HumanMessage([{"type": "text", "text": "How much?"}], id="other", name="ada")
    assert (await enter(ledger, TOP, read_question([noted]))).turn.turn_id == first.turn.turn_id
