"""Items and messages: nothing is lost either way, and what people edit counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from langchain_core.load import dumps, loads
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
    messages_from_dict,
    messages_to_dict,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph.message import add_messages

from databricks_supervisor.items import ITEM_KEY, as_item, items_from_message, message_from_item, message_id
from tests.library.items.response_items import PNG
from tests.support.items_strategies import any_items, dict_items


def exact(value: Any) -> str:
    """Equal texts for values that are equal as JSON: ``1``, ``1.0`` and ``true`` differ."""
    return json.dumps(value, sort_keys=True)


def through_msgpack(message: BaseMessage) -> BaseMessage:
    serde = JsonPlusSerializer()
    kind, data = serde.dumps_typed([message])
    assert kind == "msgpack"
    (loaded,) = serde.loads_typed((kind, data))
    return loaded


def through_dumps(message: BaseMessage) -> BaseMessage:
    return loads(dumps(message), allowed_objects="messages")


def through_dict(message: BaseMessage) -> BaseMessage:
    (loaded,) = messages_from_dict(json.loads(json.dumps(messages_to_dict([message]))))
    return loaded


def through_add_messages(message: BaseMessage) -> BaseMessage:
    (loaded,) = add_messages([], [message])
    return loaded


def text_parts(item: dict[str, Any]) -> str:
    return "".join(part["text"] for part in item["content"])


@settings(deadline=None, max_examples=300)
@given(any_items)
def test_every_item_comes_back_as_it_was(item: Any) -> None:
    before = exact(item)
    message = message_from_item(item, "resp_1", 3)
    assert message.id == message_id("resp_1", 3) == "resp_1:3"
    assert exact(items_from_message(message)) == exact([as_item(item)])
    assert exact(item) == before
    assert isinstance(message.text, str)
    assert isinstance(message.content_blocks, list)
    assert message.pretty_repr()


@settings(deadline=None, max_examples=120)
@given(any_items)
def test_every_item_survives_checkpoints_and_json(item: Any) -> None:
    message = message_from_item(item, "resp_1", 0)
    for way in (through_msgpack, through_dict, through_add_messages):
        assert exact(items_from_message(way(message))) == exact([as_item(item)]), way


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
@settings(deadline=None, max_examples=30)
@given(dict_items)
def test_every_item_survives_langchains_own_serialization(item: Any) -> None:
    message = message_from_item(item, "resp_1", 0)
    assert exact(items_from_message(through_dumps(message))) == exact([item])


def test_an_item_survives_the_message_format_of_langgraphs_server() -> None:
    item = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
    data = message_from_item(item, "resp_1", 0).model_dump(mode="json")
    (message,) = convert_to_messages([json.loads(json.dumps(data))])
    assert items_from_message(message) == [item]


def test_what_comes_back_is_safe_to_change() -> None:
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "id": "r"}
    message = message_from_item(item, "resp_1", 0)
    items_from_message(message)[0]["summary"].clear()
    item["summary"] = []
    assert items_from_message(message)[0]["summary"] == [{"type": "summary_text", "text": "Hm."}]


LONG = "A sentence that is long enough to matter. " * 5


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": LONG}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "1"}, {"type": "refusal", "refusal": LONG}],
        },
        {"type": "message", "role": "user", "content": LONG},
        {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": LONG}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps({"text": LONG})},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps({"text": LONG})[:-1]},
        {"type": "function_call_output", "call_id": "c", "output": LONG},
        {"type": "function_call_output", "call_id": "c", "output": {"rows": [LONG]}},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": LONG}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": LONG}]},
        {"type": "mcp_call", "id": "m", "name": "f", "output": LONG},
    ],
    ids=lambda item: item["type"],
)
def test_long_texts_are_stored_once(item: dict[str, Any]) -> None:
    message = message_from_item(item, "resp_1", 0)
    assert json.dumps(messages_to_dict([message])).count(LONG.strip()) == 1
    assert items_from_message(message) == [item]


class TestWhatPeopleSee:
    def test_a_text_is_a_string(self) -> None:
        part = {"type": "output_text", "text": "42", "annotations": [], "logprobs": []}
        message = message_from_item({"type": "message", "role": "assistant", "content": [part]}, "r", 0)
        assert isinstance(message, AIMessage)
        assert message.content == "42"

    def test_annotations_are_kept_with_their_text(self) -> None:
        citation = {
            "type": "url_citation",
            "url": "https://x",
            "title": "X",
            "start_index": 0,
            "end_index": 1,
        }
        part = {"type": "output_text", "text": "42", "annotations": [citation]}
        message = message_from_item({"type": "message", "role": "assistant", "content": [part]}, "r", 0)
        assert message.content == [{"type": "text", "text": "42", "annotations": [citation]}]
        assert message.text == "42"

    def test_several_texts_and_a_refusal_are_blocks(self) -> None:
        content = [
            {"type": "output_text", "text": "a"},
            {"type": "output_text", "text": "b"},
            {"type": "refusal", "refusal": "No."},
        ]
        message = message_from_item({"type": "message", "role": "assistant", "content": content}, "r", 0)
        assert message.text == "ab"
        assert message.content[2] == {"type": "refusal", "refusal": "No."}

    @pytest.mark.parametrize(
        ("role", "kind"),
        [("user", HumanMessage), ("system", SystemMessage), ("developer", SystemMessage)],
    )
    def test_roles_have_their_messages(self, role: str, kind: type[BaseMessage]) -> None:
        message = message_from_item({"role": role, "content": "Hi"}, "r", 0)
        assert isinstance(message, kind)
        assert message.content == "Hi"

    def test_a_users_image_can_be_read_by_other_models(self) -> None:
        parts = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": PNG}]
        message = message_from_item({"type": "message", "role": "user", "content": parts}, "r", 0)
        assert message.content[1] == {"type": "image_url", "image_url": {"url": PNG}}

    def test_a_call_is_a_tool_call(self) -> None:
        item = {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
        message = message_from_item(item, "r", 0)
        assert message.content == ""
        assert message.tool_calls == [{"name": "f", "args": {"a": 1}, "id": "c1", "type": "tool_call"}]

    @pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", "null", '{"a": NaN}', '{"a": 1%s}' % ("0" * 30)])
    def test_arguments_that_cannot_be_used_are_an_invalid_tool_call(self, arguments: str) -> None:
        item = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": arguments}
        message = message_from_item(item, "r", 0)
        assert message.tool_calls == []
        assert message.invalid_tool_calls[0]["args"] == arguments
        assert message.invalid_tool_calls[0]["id"] == "c1"

    def test_no_arguments_are_an_empty_object(self) -> None:
        item = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": ""}
        assert message_from_item(item, "r", 0).tool_calls[0]["args"] == {}

    @pytest.mark.parametrize(
        ("output", "content"),
        [
            ("3 rows", "3 rows"),
            (None, ""),
            ({"rows": [1]}, '{"rows": [1]}'),
            ([1, 2], "[1, 2]"),
            ([{"type": "input_text", "text": "3 rows"}], "3 rows"),
        ],
    )
    def test_an_output_is_a_tool_message(self, output: object, content: str) -> None:
        item = {"type": "function_call_output", "call_id": "c1", "output": output}
        message = message_from_item(item, "r", 0)
        assert isinstance(message, ToolMessage)
        assert (message.tool_call_id, message.content) == ("c1", content)

    def test_reasoning_is_a_reasoning_block(self) -> None:
        summary = [{"type": "summary_text", "text": "First."}, {"type": "summary_text", "text": "Second."}]
        message = message_from_item({"type": "reasoning", "id": "rs", "summary": summary}, "r", 0)
        assert [block["reasoning"] for block in message.content] == ["First.", "Second."]
        assert message.text == ""

    def test_approvals_can_be_read(self) -> None:
        request = {"type": "mcp_approval_request", "id": "call_x", "name": "web-search"}
        request |= {"server_label": "you_dot_com", "arguments": "{}"}
        assert message_from_item(request, "r", 0).content == "Approval needed: web-search (you_dot_com)"
        response = {"type": "mcp_approval_response", "id": "call_x", "approval_request_id": "call_x"}
        approved = message_from_item({**response, "approve": True}, "r", 1)
        refused = message_from_item({**response, "approve": False, "reason": "Too expensive."}, "r", 1)
        assert isinstance(approved, HumanMessage)
        assert approved.content == "Approved: call_x"
        assert refused.content == "Refused: call_x. Too expensive."

    @pytest.mark.parametrize(
        ("item", "text"),
        [
            ({"type": "mcp_call", "name": "f", "server_label": "s", "output": "…"}, "mcp_call: f (s)"),
            ({"type": "compaction", "encrypted_content": "x" * 999}, "compaction"),
            ({"name": "f"}, "Item without a type: f"),
            (None, "unreadable"),
            ("text", "unreadable"),
            ({"type": "mcp_call", "name": "f" * 999}, f"mcp_call: {'f' * 189}…"),
        ],
    )
    def test_what_is_unknown_is_named(self, item: Any, text: str) -> None:
        message = message_from_item(item, "r", 0)
        assert isinstance(message, AIMessage)
        assert message.content == text


class TestEdits:
    """Another node changed a message: what it says now counts."""

    def test_of_a_text(self) -> None:
        item = {"type": "message", "id": "m", "role": "assistant", "content": "Call 555-1234."}
        message = message_from_item(item, "r", 0)
        message.content = "Call [redacted]."
        (edited,) = items_from_message(message)
        assert text_parts(edited) == "Call [redacted]."
        assert "555-1234" not in exact(edited)

    def test_of_a_calls_arguments(self) -> None:
        item = {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": '{"limit": 1}'}
        message = message_from_item(item, "r", 0)
        message.tool_calls[0]["args"]["limit"] = 2
        (edited,) = items_from_message(message)
        assert (edited["call_id"], edited["arguments"]) == ("c", '{"limit": 2}')

    def test_of_an_output(self) -> None:
        item = {"type": "function_call_output", "call_id": "c", "output": {"rows": 3}}
        message = message_from_item(item, "r", 0)
        message.content = "4 rows"
        assert items_from_message(message) == [
            {"type": "function_call_output", "call_id": "c", "output": "4 rows"}
        ]

    def test_of_an_approval_take_its_meaning(self) -> None:
        item = {"type": "mcp_approval_response", "approval_request_id": "c", "approve": True}
        message = message_from_item(item, "r", 0)
        message.content = "Wait."
        assert [found["type"] for found in items_from_message(message)] == ["message"]

    def test_of_what_does_not_speak_change_nothing(self) -> None:
        item = {"type": "message", "id": "m", "role": "assistant", "content": "Hi"}
        message = message_from_item(item, "r", 0)
        message.name = "supervisor"
        message.id = "other"
        message.additional_kwargs["note"] = 1
        assert items_from_message(message) == [item]

    @pytest.mark.parametrize("rubbish", [None, 1, {}, {"digest": 1}, {"item": [], "holes": [[0, 0]]}])
    def test_of_the_stored_item_are_ignored(self, rubbish: Any) -> None:
        message = message_from_item({"role": "user", "content": "Hi"}, "r", 0)
        if isinstance(rubbish, dict):
            rubbish = {**rubbish, "digest": message.additional_kwargs[ITEM_KEY]["digest"]}
        message.additional_kwargs[ITEM_KEY] = rubbish
        assert text_parts(items_from_message(message)[0]) == "Hi"
