"""Which messages belong to a response, what it waits for, and what its request sent."""

from __future__ import annotations

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from databricks_supervisor.items import is_of_response, message_from_item
from databricks_supervisor.items.history import request_input, sent_input
from databricks_supervisor.items.output import items_of, pending_of

CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"}
HOSTED = {"type": "function_call", "call_id": "c2", "name": "hosted", "arguments": "{}"}
REQUEST = {
    "type": "mcp_approval_request",
    "id": "a1",
    "name": "send",
    "server_label": "mail",
    "arguments": "{}",
}
BEFORE: list[BaseMessage] = [HumanMessage("How much?", id="q"), AIMessage("Hm.", id="resp_1:0")]
OWN = [message_from_item(item, "resp_10", index) for index, item in enumerate([CALL, HOSTED, REQUEST])]
DECISION = message_from_item(
    {"type": "mcp_approval_response", "approval_request_id": "a1", "approve": True}, "resp_10", 0
)
DECISION.id = "resp_10:decision:a1"
OUTPUT = ToolMessage("3", tool_call_id="c1", id="resp_10:output:c1")


def test_a_response_has_its_own_items_and_not_those_of_one_with_a_shorter_id() -> None:
    assert items_of([*BEFORE, *OWN], "resp_10") == [CALL, HOSTED, REQUEST]
    assert not any(is_of_response(message, "resp_1") for message in OWN)
    assert items_of([*BEFORE, *OWN], None) == []


def test_it_waits_for_declared_functions_and_for_approvals() -> None:
    pending = pending_of([*BEFORE, *OWN], "resp_10", {"add"})
    assert (pending.calls, pending.approvals) == ([CALL], [REQUEST])


def test_decisions_and_outputs_in_the_conversation_are_no_longer_pending() -> None:
    assert not pending_of([*BEFORE, *OWN, DECISION, OUTPUT], "resp_10", {"add"})
    assert pending_of([*BEFORE, *OWN, OUTPUT], "resp_10", {"add"}).approvals == [REQUEST]


def test_a_request_sent_what_was_there_before_its_response() -> None:
    assert sent_input([*BEFORE, *OWN, OUTPUT], "resp_10") == request_input(BEFORE)
    assert sent_input(BEFORE, "resp_10") == request_input(BEFORE)
