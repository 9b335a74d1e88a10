"""A decision is made once, and answers that contradict each other do not mix."""

from __future__ import annotations

from itertools import permutations

import pytest

from databricks_supervisor.approvals.decisions import (
    first_contradicted,
    parse_repeat_call_id,
    record_answer,
    record_decision,
    repeat_call_id,
    resubmit_id,
)
from databricks_supervisor.ledger import MemoryLedger, recorded_decisions
from databricks_supervisor.state import Decision
from tests.support.ledgers import new_turn

YES = Decision(approve=True, by="person")
NO = Decision(approve=False, by="person")


async def opened() -> MemoryLedger:
    ledger = MemoryLedger()
    await ledger.open_turn(new_turn("turn"))
    return ledger


async def test_an_answer_is_recorded_as_a_whole() -> None:
    ledger = await opened()
    answer = {(0, "b"): NO, (0, "a"): YES}
    assert await record_answer(ledger, "turn", answer) == answer
    assert recorded_decisions(await ledger.effects("turn")) == answer


async def test_an_answer_stops_at_the_first_decision_that_stands_against_it() -> None:
    ledger = await opened()
    await record_decision(ledger, "turn", (0, "b"), NO)
    answer = {(0, "a"): YES, (0, "b"): YES, (0, "c"): YES}
    standing = await record_answer(ledger, "turn", answer)
    assert standing == {(0, "a"): YES, (0, "b"): NO}
    assert first_contradicted(answer, standing) == (0, "b")
    assert (0, "c") not in recorded_decisions(await ledger.effects("turn"))


@pytest.mark.parametrize("ids", list(permutations("abc")), ids="".join)
async def test_the_order_in_which_an_answer_was_given_does_not_matter(ids: tuple[str, ...]) -> None:
    ledger = await opened()
    await record_answer(ledger, "turn", {(0, id): YES for id in ids})
    assert [effect.key.id for effect in await ledger.effects("turn")] == ["a", "b", "c"]


async def test_the_same_answer_again_contradicts_nothing() -> None:
    ledger = await opened()
    answer = {(0, "a"): YES, (0, "b"): NO}
    await record_answer(ledger, "turn", answer)
    assert first_contradicted(answer, await record_answer(ledger, "turn", answer)) is None


async def test_the_same_id_in_another_round_is_another_decision() -> None:
    ledger = await opened()
    await record_decision(ledger, "turn", (0, "a"), NO)
    assert await record_decision(ledger, "turn", (1, "a"), YES) == YES


@pytest.mark.parametrize("call_id", ["call_1", "1", "repeat_2_x", "with\na line", "a_b_c"])
@pytest.mark.parametrize("attempt", [1, 12])
def test_the_id_of_a_repeated_call_names_attempt_and_call(attempt: int, call_id: str) -> None:
    assert parse_repeat_call_id(repeat_call_id(attempt, call_id)) == (attempt, call_id)


@pytest.mark.parametrize("id", [resubmit_id(1), "call_1", "repeat_x_1", "repeat_1", ""])
def test_other_ids_name_no_repeated_call(id: str) -> None:
    assert parse_repeat_call_id(id) is None
