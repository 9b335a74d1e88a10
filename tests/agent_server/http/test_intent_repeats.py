"""What a request asks of a thread while that thread moves, and from clients that say a thing twice."""

from __future__ import annotations

from typing import Any

import pytest

from agent_server.http.errors import ApiError
from agent_server.http.intent import AnswerApprovals, StartTurn, intent_of
from agent_server.http.request import CreateRequest
from agent_server.threads import ThreadSnapshot
from databricks_supervisor import Job
from databricks_supervisor.items import items_from_message, message_from_item
from databricks_supervisor.ledger import Effect, EffectKey, Turn

Item = dict[str, Any]

QUESTION = {"type": "message", "role": "user", "content": "Publish it?"}
TURN = Turn("turn", "/t", "", None, "digest")
CALL = {"type": "function_call", "call_id": "c", "name": "clock", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "12:00"}


def request(id: str) -> Item:
    """What waits for a person."""
    return {"type": "mcp_approval_request", "id": id, "name": "t", "server_label": "s", "arguments": "{}"}


def answer(id: str) -> Item:
    """What a person says."""
    return {"type": "mcp_approval_response", "approval_request_id": id, "approve": True}


def decided(id: str) -> Effect:
    """A decision as the ledger has it."""
    key = EffectKey("turn", 0, "decision", id)
    return Effect(key, 1, "worker", 0.0, 0.0, {"approve": True, "by": "person"})


def between_passes(status: str = "completed") -> ThreadSnapshot:
    """A thread of two requests, one of them answered; the graph goes on with that and asks nothing at the moment."""
    messages = [
        message_from_item(QUESTION, "input", 0),
        *(message_from_item(request(id), "resp_1", index) for index, id in enumerate(("one", "two"))),
    ]
    job = Job(turn_id="turn", round=0, response_id="resp_1", status=status)
    effects = [decided("one")]
    return ThreadSnapshot(True, messages, job, [], TURN, effects)


def test_the_rest_of_a_pause_is_answered_while_the_graph_goes_on_with_the_first_answer() -> None:
    snapshot = between_passes()
    assert snapshot.awaited == {"two": None}
    assert intent_of(CreateRequest([answer("two")]), snapshot) == AnswerApprovals([answer("two")])
    everything = [QUESTION, request("one"), request("two"), answer("one"), answer("two")]
    assert intent_of(CreateRequest(everything, conversation=True), snapshot) == AnswerApprovals(
        [answer("two")]
    )


@pytest.mark.parametrize("status", ["new", "queued", "in_progress", "failed"])
def test_a_job_that_may_say_more_waits_for_nobody(status: str) -> None:
    snapshot = between_passes(status)
    assert snapshot.awaited == {}
    with pytest.raises(ApiError, match="Nothing is pending"):
        intent_of(CreateRequest([answer("two")]), snapshot)


def test_what_is_given_twice_in_a_row_is_taken_once() -> None:
    intent = intent_of(CreateRequest([QUESTION, CALL, OUTPUT, CALL, OUTPUT]), ThreadSnapshot())
    assert items_of(intent) == ["message", "function_call", "function_call_output"]


def test_a_service_may_use_an_id_again_later_in_a_conversation() -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Noon."}]}
    intent = intent_of(
        CreateRequest([QUESTION, CALL, OUTPUT, said, QUESTION, CALL, OUTPUT]), ThreadSnapshot()
    )
    assert items_of(intent) == [
        *("message", "function_call", "function_call_output", "message"),
        *("message", "function_call", "function_call_output"),
    ]


def items_of(intent: Any) -> list[str]:
    """Types of what is to be submitted."""
    assert isinstance(intent, StartTurn)
    return [
        item.get("type", "message") for message in intent.messages for item in items_from_message(message)
    ]
