"""Responses: which of a turn's items one public id stands for, from effects that a real ledger recorded."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import BaseMessage, ToolMessage

from agent_server.http.responses import (
    Pause,
    graph_request,
    items_between,
    parse_public_id,
    pauses_of,
    public_id,
)
from databricks_supervisor.approvals.decisions import record_decision
from databricks_supervisor.items import Item, message_from_item
from databricks_supervisor.ledger import EffectKey, MemoryLedger, response_ids
from databricks_supervisor.state import Decision
from tests.support.conversations import request, response, said
from tests.support.ledgers import Clock, new_turn

YES = Decision(approve=True, by="person")
JOB = {"name": "resubmit_job", "args": {"attempt": 1}}
CALL = {"name": "pay", "args": {"n": 3}}


class Effects:
    """One turn in a ledger."""

    def __init__(self) -> None:
        self.clock = Clock(100.0)
        self.ledger = MemoryLedger(self.clock)

    async def begin(self) -> Effects:
        await self.ledger.open_turn(new_turn("t"))
        return self

    async def submitted(self, round_: int, response_id: str) -> None:
        effect = await self.ledger.claim(EffectKey("t", round_, "submit"), "w")
        await self.ledger.record(effect.key, effect.attempt, {"response_id": response_id})

    async def decided(
        self, round_: int, id: str, asked: dict[str, Any] | None = None, by: str = "person"
    ) -> None:
        self.clock.forward(1)
        given = Decision(approve=True, by=by)
        if asked is not None:
            given["asked"] = asked
        await record_decision(self.ledger, "t", (round_, id), given)

    async def found_only(self, round_: int, id: str) -> None:
        """A claim that was given back at once, so that the id is found."""
        effect = await self.ledger.claim(EffectKey("t", round_, "decision", id), "w")
        await self.ledger.release(effect.key, effect.attempt)

    async def pauses(self) -> list[Pause]:
        return pauses_of(await self.ledger.effects("t"))

    async def rounds(self) -> dict[int, str]:
        return response_ids(await self.ledger.effects("t"))


# ---- ids


@settings(deadline=None)
@given(st.from_regex(r"[0-9a-f]{1,32}", fullmatch=True), st.integers(0, 9999))
def test_an_id_names_a_turn_and_one_of_its_responses(turn: str, index: int) -> None:
    assert parse_public_id(public_id(turn, index)) == (turn, index)


@settings(deadline=None)
@given(st.text())
def test_whatever_is_asked_for_is_an_id_or_none(text: str) -> None:
    for id in (text, f"resp_{text}", f"resp_{text}_0", f"resp_t_{text}"):
        named = parse_public_id(id)
        assert named is None or public_id(*named) == id


@pytest.mark.parametrize(
    "id", ["", "resp_", "resp_t", "resp__0", "resp_t_00", "resp_t_٣", "resp_t_-1", "resp_a\0_0"]
)
def test_what_is_no_id(id: str) -> None:
    assert parse_public_id(id) is None


# ---- pauses


async def test_without_an_answer_there_is_no_pause() -> None:
    effects = await Effects().begin()
    await effects.submitted(0, "r0")
    await effects.found_only(0, "a")
    await effects.decided(0, "b", by="policy")
    assert await effects.pauses() == []
    assert await effects.rounds() == {0: "r0"}


async def test_answers_of_one_round_are_one_pause() -> None:
    effects = await Effects().begin()
    await effects.submitted(0, "r0")
    await effects.found_only(0, "b")
    await effects.decided(0, "a")
    await effects.decided(0, "b")
    (pause,) = await effects.pauses()
    assert pause == Pause(position=1, key=("approval", 0), answered_at=101.0)


async def test_the_first_answer_stands_and_tells_the_time() -> None:
    effects = await Effects().begin()
    await effects.decided(0, "a")
    before = await effects.pauses()
    effects.clock.forward(100)
    stands = await record_decision(effects.ledger, "t", (0, "a"), Decision(approve=False, by="person"))
    assert stands["approve"] is True
    assert await effects.pauses() == before


async def test_every_round_that_asks_is_a_pause() -> None:
    effects = await Effects().begin()
    for round_ in range(3):
        await effects.submitted(round_, f"r{round_}")
        await effects.decided(round_, "a")
    assert [pause.position for pause in await effects.pauses()] == [1, 3, 5]


async def test_a_question_about_a_submission_comes_before_what_the_job_delivers() -> None:
    effects = await Effects().begin()
    await effects.decided(0, "resubmit_1", JOB)
    await effects.decided(0, "resubmit_2", JOB)
    await effects.submitted(0, "r0")
    await effects.decided(0, "a")
    first, second, third = await effects.pauses()
    assert [first.position, second.position, third.position] == [0, 0, 1]
    assert [item["id"] for item in (*first.asked, *second.asked)] == ["resubmit_1", "resubmit_2"]
    assert third.asked == ()


async def test_calls_of_one_attempt_are_asked_about_together() -> None:
    effects = await Effects().begin()
    await effects.submitted(0, "r0")
    await effects.decided(0, "repeat_1_c", CALL)
    await effects.decided(0, "repeat_1_d_1", CALL)
    await effects.decided(0, "repeat_2_c", CALL)
    first, second = await effects.pauses()
    assert [item["id"] for item in first.asked] == ["c", "d_1"]
    assert [item["id"] for item in second.asked] == ["c"]
    assert first.position == second.position == 1


def test_what_stands_for_a_question_of_the_graph_can_be_shown() -> None:
    item = graph_request("resubmit_1", {"name": "resubmit_job", "args": {"n": 1, "at": object}})
    assert (item["type"], item["server_label"]) == ("mcp_approval_request", "supervisor")
    assert json.loads(item["arguments"])["n"] == 1
    assert graph_request("x", {})["name"] == "repeat"
    one, other = {"name": "n", "args": {"a": 1, "b": 2}}, {"name": "n", "args": {"b": 2, "a": 1}}
    assert graph_request("x", one) == graph_request("x", other)


# ---- items


def message(item: Item, id: str) -> BaseMessage:
    made = message_from_item(item, "r", 0)
    made.id = id
    return made


def turn_of(rounds: int) -> list[BaseMessage]:
    """A turn's messages: in each round a message, an approval, its decision and an output of a function here."""
    found: list[BaseMessage] = [message(said("Before"), "other:0")]
    for round_ in range(rounds):
        found += [
            message(said(f"Answer {round_}"), f"r{round_}:0"),
            message(request(f"a{round_}"), f"r{round_}:1"),
            message(response(f"a{round_}"), f"r{round_}:decision:a{round_}"),
            ToolMessage("42", tool_call_id=f"c{round_}", id=f"r{round_}:output:c{round_}"),
        ]
    return found


def test_decisions_and_other_turns_are_no_part_of_a_response() -> None:
    found = items_between(turn_of(1), {0: "r0"}, 0, None)
    assert [id for id, _ in found] == ["r0:0", "r0:1", "r0:output:c0"]


def test_what_functions_gave_back_comes_after_what_the_job_delivered() -> None:
    messages, rounds = turn_of(2), {0: "r0", 1: "r1"}
    found = [[id for id, _ in items_between(messages, rounds, at, at + 1)] for at in range(5)]
    assert found == [["r0:0", "r0:1"], ["r0:output:c0"], ["r1:0", "r1:1"], ["r1:output:c1"], []]


def test_ids_that_begin_alike_are_told_apart() -> None:
    messages = [message(said("One"), "r1:0"), message(said("Ten"), "r10:0")]
    assert [id for id, _ in items_between(messages, {0: "r1"}, 0, None)] == ["r1:0"]
    assert [id for id, _ in items_between(messages, {0: "r10"}, 0, None)] == ["r10:0"]


@settings(deadline=None)
@given(st.integers(0, 5), st.sets(st.integers(0, 11)))
def test_every_item_is_of_one_response(rounds: int, positions: set[int]) -> None:
    messages, ids = turn_of(rounds), {round_: f"r{round_}" for round_ in range(rounds)}
    borders = [0, *sorted(positions), None]
    responses = [
        items_between(messages, ids, start, end)
        for start, end in itertools.pairwise(borders)
        if start is not None
    ]
    assert [each for response in responses for each in response] == items_between(messages, ids, 0, None)
    assert len({id for response in responses for id, _ in response}) == 3 * rounds
