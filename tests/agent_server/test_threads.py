"""A snapshot of a thread: what its turn waits for, and under which key the ledger has each decision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from agent_server.threads import PendingInterrupt, ThreadSnapshot
from databricks_supervisor import Job
from databricks_supervisor.approvals.interrupts import PendingAction, interrupt_value
from databricks_supervisor.items import message_from_item
from databricks_supervisor.ledger import Effect, EffectKey, EffectKind, Turn
from tests.support.conversations import request

Kind = Literal["mcp_approval", "repeat_submission", "repeat_call"]

TURN = Turn("turn", "ann/t", "", None, "digest")
JOB = Job(turn_id="turn", round=2, response_id="r", status="completed", ended=False)


def asking(kind: Kind, *ids: str) -> PendingInterrupt:
    """An interrupt about these ids."""
    return PendingInterrupt(
        "i", interrupt_value(kind, [PendingAction(id, "pay", {}, "?") for id in ids], "r")
    )


def effect(kind: EffectKind, id: str, attempt: int = 1, outcome: dict[str, Any] | None = None) -> Effect:
    return Effect(EffectKey("turn", 2, kind, id), attempt, "worker", 1.0, 0.0, outcome)


def decided(id: str, *, approve: bool = True, **more: Any) -> Effect:
    return effect("decision", id, outcome={"approve": approve, "by": "person", **more})


def snapshot(*interrupts: PendingInterrupt, effects: tuple[Effect, ...] = ()) -> ThreadSnapshot:
    return ThreadSnapshot(True, [], JOB, interrupts, TURN, effects)


def test_a_decision_is_kept_by_round_and_id() -> None:
    assert snapshot(asking("mcp_approval", "a")).keys == {"a": (2, "a")}
    assert snapshot(asking("repeat_submission", "resubmit_1")).keys == {"resubmit_1": (2, "resubmit_1")}


def test_whether_to_run_a_function_again_is_another_question_at_each_attempt() -> None:
    again = asking("repeat_call", "c")
    assert snapshot(again, effects=(effect("tool", "c"),)).keys == {"c": (2, "repeat_1_c")}
    twice = snapshot(again, effects=(effect("tool", "c", attempt=2), decided("repeat_1_c")))
    assert twice.keys == {"c": (2, "repeat_2_c")}
    assert [id for id, _ in twice.pending] == ["c"]


def test_what_was_answered_in_part_waits_for_the_rest_and_the_graph_is_given_what_is_there() -> None:
    partly = snapshot(asking("mcp_approval", "a", "b"), effects=(decided("a", approve=False, reason="no"),))
    assert [id for id, _ in partly.pending] == ["b"]
    assert list(partly.awaited) == ["a", "b"]
    assert partly.resume == {"i": {"a": {"type": "reject", "message": "no"}}}
    assert snapshot(asking("mcp_approval", "a")).resume == {}


def test_an_approval_is_awaited_also_while_the_graph_runs_with_the_answers_to_others() -> None:
    messages = [message_from_item(request(id), "r", index) for index, id in enumerate("ab")]
    running = replace(snapshot(effects=(decided("a"),)), messages=messages)
    assert running.awaited == {"b": None}
    assert running.keys == {"b": (2, "b")}
    assert running.pending == []


def test_a_decision_that_is_being_recorded_does_not_count() -> None:
    claimed = snapshot(asking("mcp_approval", "a"), effects=(effect("decision", "a"),))
    assert claimed.decisions == {}
    assert [id for id, _ in claimed.pending] == ["a"]


@pytest.mark.parametrize("job", [None, Job(turn_id="before", round=0, response_id="r0", status="completed")])
def test_what_an_earlier_turn_asked_is_not_asked_by_a_turn_that_no_checkpoint_has_yet(
    job: Job | None,
) -> None:
    """The new question refuses what was open; an answer to that must not be taken for an answer to the new turn."""
    opened = replace(snapshot(asking("mcp_approval", "a")), job=job)
    assert opened.own_job is None
    assert (opened.awaited, opened.keys, opened.pending, opened.resume) == ({}, {}, [], {})


def test_an_interrupt_of_a_function_of_yours_is_left_to_whoever_can_show_it() -> None:
    odd = snapshot(PendingInterrupt("i", "Which one?"))  # type: ignore[arg-type]
    assert (len(odd.interrupts), odd.awaited, odd.pending) == (1, {}, [])
