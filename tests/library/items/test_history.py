"""The request that a conversation makes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from databricks_supervisor.items import message_from_item
from databricks_supervisor.items.history import request_input
from tests.library.items.response_items import assistant, call, output, request, response, user
from tests.support.items_strategies import any_items

NOT_RUN = "No output: the call was not run."

KEYS = {
    "message": ({"type", "role", "content"}, {"id"}),
    "function_call": ({"type", "call_id", "name", "arguments"}, {"id"}),
    "function_call_output": ({"type", "call_id", "output"}, set()),
    "mcp_approval_request": ({"type", "id", "name", "server_label", "arguments"}, set()),
    "mcp_approval_response": ({"type", "id", "approval_request_id", "approve"}, {"reason"}),
}
PARTS = {
    "input_text": ({"type", "text"}, set()),
    "output_text": ({"type", "text"}, {"annotations"}),
    "input_image": ({"type"}, {"image_url", "file_id", "detail"}),
    "input_file": ({"type"}, {"filename", "file_data", "file_url", "file_id"}),
    "input_audio": ({"type", "input_audio"}, set()),
}


def check_request(items: list[dict[str, Any]]) -> None:
    """A strict service, written from docs/wire.md alone."""
    json.dumps(items, allow_nan=False, ensure_ascii=False).encode()
    calls: list[str] = []
    results: list[str] = []
    ids: list[str] = []
    for item in items:
        required, optional = KEYS[item["type"]]
        assert required <= item.keys() <= required | optional, item
        assert "null" not in re.sub(r'"(\\.|[^"\\])*"', "", json.dumps(item)), item
        for key in {"id", "call_id", "approval_request_id"} & item.keys():
            assert 0 < len(item[key]) <= 64
        match item["type"]:
            case "message":
                ids += [item["id"]] if "id" in item else []
                assert set(calls) == set(results), "somebody speaks between a call and its result"
                assert item["role"] in ("assistant", "user", "system", "developer")
                assert item["content"]
                for part in item["content"]:
                    needed, allowed = PARTS[part["type"]]
                    assert needed <= part.keys() <= needed | allowed, part
                    assert (part["type"] == "output_text") == (item["role"] == "assistant")
                    assert part.get("text") != ""
            case "function_call":
                assert item["name"]
                assert isinstance(json.loads(item["arguments"]), dict)
                calls.append(item["call_id"])
            case "mcp_approval_request":
                assert isinstance(item["server_label"], str)
                assert isinstance(json.loads(item["arguments"]), dict)
                calls.append(item["id"])
            case "function_call_output":
                assert isinstance(item["output"], str)
                results.append(item["call_id"])
            case "mcp_approval_response":
                assert item["id"] == item["approval_request_id"]
                assert isinstance(item["approve"], bool)
                results.append(item["id"])
        assert len(results) == len(set(results)), "each tool_use must have a single result"
        assert set(results) <= set(calls), "No tool call found for function call output"
    assert len(calls) == len(set(calls))
    assert set(calls) == set(results), "No tool output found for function call"
    assert len(ids) == len(set(ids))


def messages_of(*items: Any, response_id: str = "resp_1") -> list[BaseMessage]:
    return [message_from_item(item, response_id, index) for index, item in enumerate(items)]


def sent(*items: Any) -> list[dict[str, Any]]:
    built = request_input(messages_of(*items))
    check_request(built)
    return built


OTHERS = st.sampled_from(
    [
        HumanMessage("Hi"),
        HumanMessage([{"type": "image", "url": "https://x/y.png"}]),
        HumanMessage("half \ud83d"),
        AIMessage("", tool_calls=[{"name": "g", "args": {}, "id": "call_x"}]),
        AIMessage("Hm.", invalid_tool_calls=[{"name": "g", "args": "{", "id": "b", "error": None}]),
        ToolMessage("3", tool_call_id="call_x"),
        SystemMessage("Be brief."),
        RemoveMessage("x"),
    ]
)
conversations = st.lists(
    st.one_of(any_items.map(lambda item: message_from_item(item, "r", 0)), OTHERS), max_size=10
)


@settings(deadline=None, max_examples=300)
@given(conversations)
def test_a_strict_service_takes_every_conversation(messages: list[BaseMessage]) -> None:
    built = request_input(messages)
    check_request(built)
    assert request_input(messages) == built
    assert request_input(messages_of(*built)) == built


calls_in_any_order = st.lists(
    st.sampled_from(
        [
            *(make(id_) for id_ in ("a", "b") for make in (call, output, request, response)),
            *(user("Hi"), assistant("Hm.")),
        ]
    ),
    max_size=9,
    unique_by=repr,
)


def is_used_again(items: list[dict[str, Any]], id_: str) -> bool:
    """Whether a call or a request comes after the other one has its output."""
    told = [kind for kind in items if kind in (call(id_), output(id_), request(id_))]
    return len(told) == 3 and told[2] != output(id_)


@settings(deadline=None, max_examples=300)
@given(calls_in_any_order)
def test_calls_in_any_order_are_paired_into_one_call_and_one_output(items: list[dict[str, Any]]) -> None:
    assume(not any(is_used_again(items, id_) for id_ in ("a", "b")))
    built = sent(*items)
    said = [item for item in built if item["type"] == "message"]
    assert [item for item in said if item in (user("Hi"), assistant("Hm."))] == [
        item for item in items if item["type"] == "message"
    ]
    for id_ in ("a", "b"):
        has = {kind["type"]: kind in items for kind in (call(id_), output(id_), request(id_), response(id_))}
        mine = [item["type"] for item in built if id_ in (item.get("id"), item.get("call_id"))]
        if has["function_call_output"]:
            known = has["function_call"] or has["mcp_approval_request"]
            assert mine == (["function_call", "function_call_output"] if known else [])
        elif has["mcp_approval_request"] and has["mcp_approval_response"]:
            assume(items.index(request(id_)) < items.index(response(id_)))
            later = items[items.index(response(id_)) :]
            went_on = any(
                each["type"] in ("message", "function_call", "mcp_approval_request") for each in later
            )
            assert mine == (
                ["function_call", "function_call_output"]
                if went_on
                else ["mcp_approval_request", "mcp_approval_response"]
            )
        else:
            assert mine == (["function_call", "function_call_output"] if has["function_call"] else [])


class TestWhatIsSent:
    def test_an_approval_whose_turn_ended_badly_is_not_given_again(self) -> None:
        built = sent(user("Post it."), request("a"), response("a"), user("What now?"))
        assert [item["type"] for item in built[1:3]] == ["function_call", "function_call_output"]
        assert "its result arrived" in built[2]["output"]

    def test_a_refusal_rides_along_with_the_message_that_replaced_the_request(self) -> None:
        refused = response("a", approve=False, reason="replaced by a new message")
        built = sent(user("Post it."), request("a"), refused, user("What now?"))
        assert [item["type"] for item in built[1:3]] == ["mcp_approval_request", "mcp_approval_response"]

    def test_fields_that_endpoints_refuse_are_left_out(self) -> None:
        part = {"type": "output_text", "text": "42", "annotations": [], "logprobs": []}
        built = sent(
            {**user("6 × 7?"), "id": "u1", "status": "completed"},
            {
                **call("c1"),
                "id": "fc_1",
                "status": "completed",
                "namespace": None,
                "caller": None,
                "async_": None,
            },
            {**output("c1"), "id": None, "status": "completed"},
            {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [part]},
        )
        assert built == [user("6 × 7?"), {**call("c1"), "id": "fc_1"}, output("c1"), assistant("42", id="m1")]

    def test_annotations_of_known_types_stay(self) -> None:
        citation = {
            "type": "url_citation",
            "url": "https://x",
            "title": "X",
            "start_index": 0,
            "end_index": 1,
        }
        part = {"type": "output_text", "text": "42", "annotations": [citation, {"type": "odd"}, None]}
        (built,) = sent({"type": "message", "role": "assistant", "content": [part]})
        assert built["content"] == [{"type": "output_text", "text": "42", "annotations": [citation]}]

    def test_a_refusal_is_sent_as_text(self) -> None:
        part = {"type": "refusal", "refusal": "No."}
        assert sent({"type": "message", "role": "assistant", "content": [part]}) == [assistant("No.")]

    @pytest.mark.parametrize(
        "kind", ["reasoning", "mcp_call", "mcp_list_tools", "compaction", "item_reference", "new_in_2031"]
    )
    def test_types_that_the_service_only_sends_are_left_out(self, kind: str) -> None:
        assert sent(user("Hi"), {"type": kind, "id": "x", "summary": [], "name": "f"}) == [user("Hi")]

    def test_garbage_and_empty_messages_are_left_out(self) -> None:
        empty = {"type": "message", "role": "assistant", "content": []}
        assert sent(None, "x", {}, empty, {**empty, "content": ""}, user("Hi")) == [user("Hi")]

    def test_an_output_becomes_a_string(self) -> None:
        built = sent(call("a"), call("b"), output("a", {"rows": 3}), output("b", None))
        assert [item["output"] for item in built[2:]] == ['{"rows": 3}', ""]

    def test_broken_arguments_become_an_object(self) -> None:
        built = sent(call("a", '{"query": "Data'), call("b", ""), call("c", '{"b":1,  "a":2}'))
        arguments = [item["arguments"] for item in built if item["type"] == "function_call"]
        assert arguments == ['{"arguments": "{\\"query\\": \\"Data"}', "{}", '{"b":1,  "a":2}']

    def test_a_message_that_is_there_twice_is_sent_once(self) -> None:
        assert sent(assistant("42", id="m1"), assistant("42", id="m1")) == [assistant("42", id="m1")]
        assert sent(assistant("42"), assistant("42")) == [assistant("42")] * 2
        assert sent(assistant("1", id="m0"), assistant("2", id="m0")) == [
            assistant("1", id="m0"),
            assistant("2"),
        ]


class TestIds:
    LONG = "call_" + "x" * 120

    def test_request_and_answer_still_match(self) -> None:
        built = sent(request(self.LONG), response(self.LONG))
        assert [item["id"] for item in built] == [self.LONG[:64]] * 2
        assert built[1]["approval_request_id"] == self.LONG[:64]

    def test_call_and_output_still_match_where_one_was_cut_already(self) -> None:
        built = sent(call(self.LONG), output(self.LONG[:64]))
        assert built == [call(self.LONG[:64]), output(self.LONG[:64])]

    def test_ids_that_differ_at_the_end_stay_distinct(self) -> None:
        one, other = self.LONG + "1", self.LONG + "2"
        built = sent(call(one), call(other), output(one, "first"), output(other, "second"))
        assert built[0]["call_id"] != built[1]["call_id"]
        assert [item["call_id"] for item in built[:2]] == [item["call_id"] for item in built[2:]]
        assert all(len(item["call_id"]) == 64 for item in built)


class TestApprovals:
    def test_answered_and_not_carried_out(self) -> None:
        built = sent(user("Search."), request("x"), response("x"))
        assert built == [user("Search."), request("x"), response("x")]

    def test_a_refusal_has_its_reason(self) -> None:
        assert sent(request("x"), response("x", False, reason="No."))[1]["reason"] == "No."

    def test_an_answer_without_an_id_gets_one(self) -> None:
        answer = {"type": "mcp_approval_response", "approval_request_id": "x", "approve": True}
        assert sent(request("x"), answer)[1] == response("x")

    def test_only_true_approves(self) -> None:
        assert sent(request("x"), response("x", "yes"))[1]["approve"] is False

    def test_carried_out_is_a_call_and_its_output(self) -> None:
        made = call("x", '{"query": "x"}', "web-search")
        built = sent(user("Search."), request("x"), response("x"), output("x"), assistant("Found."))
        assert built == [user("Search."), made, output("x"), assistant("Found.")]

    def test_what_the_ai_sdk_sends_is_a_call_and_its_output(self) -> None:
        made = call("x", '{"query": "x"}', "web-search")
        assert sent(request("x"), response("x"), made, output("x")) == [made, output("x")]

    def test_nobody_answered(self) -> None:
        assert sent(user("Search."), request("x"), user("Never mind.")) == [
            user("Search."),
            user("Never mind."),
        ]

    def test_the_first_answer_stands(self) -> None:
        assert sent(request("x"), response("x", False), response("x", True))[1]["approve"] is False

    def test_several_and_a_call_of_a_client(self) -> None:
        built = sent(request("x"), request("y"), call("c"), response("x"), response("y", False), output("c"))
        assert built == [
            request("x"),
            request("y"),
            call("c"),
            response("x"),
            response("y", False),
            output("c"),
        ]


class TestCalls:
    def test_without_an_output_say_so(self) -> None:
        assert sent(call("c"), user("Hi")) == [call("c"), output("c", NOT_RUN), user("Hi")]

    def test_an_output_without_its_call_is_said(self) -> None:
        assert sent(output("c", "3 rows")) == [assistant("Output of call c: 3 rows")]

    def test_twice_the_same_is_one_call_and_the_last_output(self) -> None:
        built = sent(call("c", '{"a": 1}'), call("c", '{"a": 2}'), output("c", "1"), output("c", "2"))
        assert built == [call("c", '{"a": 1}'), output("c", "2")]

    def test_an_id_that_is_used_again_is_another_call(self) -> None:
        built = sent(
            call("c", '{"a": 1}'), output("c", "1"), user("Hi"), call("c", '{"a": 2}'), output("c", "2")
        )
        assert built == [
            call("c-1", '{"a": 1}'),
            output("c-1", "1"),
            user("Hi"),
            call("c", '{"a": 2}'),
            output("c", "2"),
        ]

    @pytest.mark.parametrize("first", [True, False])
    def test_a_decision_is_about_the_request_before_it(self, first: bool) -> None:
        built = sent(request("a"), response("a", first), request("a"), response("a", not first))
        assert [item["type"] for item in built[:2]] == ["function_call", "function_call_output"]
        assert built[0]["call_id"] == "a-1"
        assert built[2:] == [request("a"), response("a", not first)]

    def test_a_request_that_is_made_again_is_open(self) -> None:
        built = sent(request("a"), response("a"), request("a"))
        assert [item["type"] for item in built] == ["function_call", "function_call_output"]

    def test_parallel_calls_keep_their_order(self) -> None:
        items = [call("a"), call("b"), output("a"), output("b"), assistant("Done.")]
        assert sent(*items) == items

    def test_an_output_before_its_call_comes_after_it(self) -> None:
        assert sent(output("c"), call("c")) == [call("c"), output("c")]

    def test_nobody_speaks_between_a_call_and_its_output(self) -> None:
        assert sent(call("c"), user("Hurry."), output("c")) == [call("c"), output("c"), user("Hurry.")]

    def test_of_a_parent_graphs_agent(self) -> None:
        built = request_input(
            [
                HumanMessage("Hi"),
                AIMessage("", tool_calls=[{"name": "transfer", "args": {}, "id": "t"}]),
                ToolMessage("Transferred.", tool_call_id="t"),
            ]
        )
        check_request(built)
        assert built == [user("Hi"), call("t", name="transfer"), output("t", "Transferred.")]
