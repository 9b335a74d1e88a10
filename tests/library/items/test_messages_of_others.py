"""Messages that others wrote, as items."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from databricks_supervisor.items import items_from_message, message_from_item
from tests.library.items.response_items import PNG

CALL = {"name": "f", "args": {"a": 1}, "id": "c1"}
CALL_ITEM = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}


def said(text: str, role: str = "assistant") -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


class TestMessagesOfOthers:
    @pytest.mark.parametrize(
        ("block", "part"),
        [
            ("Hi", {"type": "input_text", "text": "Hi"}),
            ({"type": "text", "text": "Hi"}, {"type": "input_text", "text": "Hi"}),
            ({"type": "input_text", "text": "Hi"}, {"type": "input_text", "text": "Hi"}),
            ({"type": "image", "url": "https://x/y"}, {"type": "input_image", "image_url": "https://x/y"}),
            (
                {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
                {"type": "input_image", "image_url": PNG},
            ),
            ({"type": "image", "file_id": "f1"}, {"type": "input_image", "file_id": "f1"}),
            (
                {"type": "image", "source_type": "base64", "data": "aGk=", "mime_type": "image/png"},
                {"type": "input_image", "image_url": PNG},
            ),
            ({"type": "image", "source_type": "id", "id": "f1"}, {"type": "input_image", "file_id": "f1"}),
            ({"type": "image_url", "image_url": {"url": PNG}}, {"type": "input_image", "image_url": PNG}),
            ({"type": "image_url", "image_url": PNG}, {"type": "input_image", "image_url": PNG}),
            (
                {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
                {"type": "input_image", "image_url": PNG, "detail": "high"},
            ),
            (
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                {"type": "input_image", "image_url": PNG},
            ),
            (
                {"type": "input_image", "image_url": PNG, "detail": "auto"},
                {"type": "input_image", "image_url": PNG},
            ),
            (
                {"type": "file", "base64": "aGk=", "mime_type": "text/plain", "filename": "a.txt"},
                {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="},
            ),
            (
                {"type": "file", "file": {"filename": "a", "file_data": "data:text/plain;base64,aGk="}},
                {"type": "input_file", "filename": "a", "file_data": "data:text/plain;base64,aGk="},
            ),
            ({"type": "file", "url": "https://x/a"}, {"type": "input_file", "file_url": "https://x/a"}),
            ({"type": "input_file", "file_id": "f1"}, {"type": "input_file", "file_id": "f1"}),
            (
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi"}},
                {"type": "input_text", "text": "Hi"},
            ),
            (
                {"type": "text-plain", "text": "Hi", "mime_type": "text/plain"},
                {"type": "input_text", "text": "Hi"},
            ),
            (
                {"type": "audio", "base64": "aGk=", "mime_type": "audio/mp3"},
                {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
            ),
            (
                {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
                {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
            ),
            ({"type": "hologram", "x": 1}, {"type": "input_text", "text": '{"type":"hologram","x":1}'}),
        ],
        ids=str,
    )
    def test_a_persons_blocks(self, block: Any, part: dict[str, Any]) -> None:
        (item,) = items_from_message(HumanMessage([block]))
        assert item == {"type": "message", "role": "user", "content": [part]}

    @pytest.mark.parametrize(
        ("message", "items"),
        [
            (HumanMessage(""), []),
            (SystemMessage("Be brief."), [said("Be brief.", "system")]),
            (
                SystemMessage("Be brief.", additional_kwargs={"__openai_role__": "developer"}),
                [said("Be brief.", "developer")],
            ),
            (ChatMessage("Hi", role="human"), [said("Hi", "user")]),
            (ChatMessage("Hi", role="assistant"), [said("Hi")]),
            (FunctionMessage("3", name="f"), [said("Output of f: 3")]),
            (RemoveMessage("x"), []),
            (AIMessage(""), []),
            (AIMessage("", tool_calls=[CALL]), [CALL_ITEM]),
            (AIMessage("Hm.", tool_calls=[CALL]), [said("Hm."), CALL_ITEM]),
            (AIMessageChunk("Hm."), [said("Hm.")]),
            (
                AIMessage("", invalid_tool_calls=[{"name": "f", "args": "{", "id": "c1", "error": None}]),
                [{**CALL_ITEM, "arguments": "{"}],
            ),
            (AIMessage(content_blocks=[{"type": "tool_call", **CALL}]), [CALL_ITEM]),
            (
                AIMessage(
                    [
                        {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"},
                        {"type": "text", "text": "Hm.", "annotations": [], "id": "msg_1"},
                        {
                            "type": "function_call",
                            "id": "fc",
                            "call_id": "c1",
                            "name": "f",
                            "arguments": "{}",
                        },
                    ],
                    tool_calls=[CALL],
                ),
                [
                    {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"},
                    said("Hm."),
                    CALL_ITEM,
                ],
            ),
            (
                AIMessage(
                    [
                        {"type": "thinking", "thinking": "Let me see.", "signature": "s"},
                        {"type": "text", "text": "Hm."},
                        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
                    ]
                ),
                [
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Let me see."}]},
                    said("Hm."),
                    CALL_ITEM,
                ],
            ),
            (
                AIMessage([{"type": "refusal", "refusal": "No."}]),
                [
                    {
                        "type": "message",
                        "role": "assistant",
                        "content": [{"type": "refusal", "refusal": "No."}],
                    }
                ],
            ),
            (
                AIMessage("", additional_kwargs={"refusal": "No."}),
                [
                    {
                        "type": "message",
                        "role": "assistant",
                        "content": [{"type": "refusal", "refusal": "No."}],
                    }
                ],
            ),
            (AIMessage([{"type": "image", "base64": "aGk=", "mime_type": "image/png"}]), [said("[image]")]),
            (
                ToolMessage([{"type": "text", "text": "a"}, "b"], tool_call_id="c1"),
                [{"type": "function_call_output", "call_id": "c1", "output": "a\nb"}],
            ),
            (
                ToolMessage("no such table", tool_call_id="c1", status="error"),
                [{"type": "function_call_output", "call_id": "c1", "output": "Error: no such table"}],
            ),
            (
                HumanMessage([{"type": "tool_result", "tool_use_id": "c1", "content": "3"}, "Go on."]),
                [{"type": "function_call_output", "call_id": "c1", "output": "3"}, said("Go on.", "user")],
            ),
        ],
        ids=lambda value: repr(value)[:60],
    )
    def test_messages(self, message: BaseMessage, items: list[dict[str, Any]]) -> None:
        before = copy.deepcopy(message)
        assert items_from_message(message) == items
        assert message == before

    def test_calls_without_ids_get_the_same_one_each_time(self) -> None:
        message = AIMessage("", tool_calls=[{**CALL, "id": None}])
        (first,) = items_from_message(message)
        assert first["call_id"].startswith("call_")
        assert items_from_message(message) == [first]


plain = st.text(min_size=1, max_size=20)
tool_calls = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["f", "g"]),
            "args": st.dictionaries(plain, st.one_of(plain, st.integers(0, 9), st.none()), max_size=2),
            "id": plain,
        }
    ),
    max_size=2,
    unique_by=lambda call: call["id"],
)
contents = st.one_of(
    plain,
    st.just(""),
    st.lists(
        st.one_of(plain, plain.map(lambda text: {"type": "text", "text": text})), min_size=1, max_size=3
    ),
)
others = st.one_of(
    contents.map(HumanMessage),
    contents.map(SystemMessage),
    st.builds(lambda content, calls: AIMessage(content, tool_calls=calls), contents, tool_calls),
    st.builds(lambda content, id_: ToolMessage(content, tool_call_id=id_), plain, plain),
)


@settings(deadline=None, max_examples=150)
@given(others)
def test_what_others_said_survives_as_items_and_back(message: BaseMessage) -> None:
    back = [message_from_item(item, "r", i) for i, item in enumerate(items_from_message(message))]
    assert "".join(found.text for found in back) == message.text
    assert {found.type for found in back} <= {message.type}
    if isinstance(message, AIMessage):
        assert [call for found in back for call in found.tool_calls] == message.tool_calls
    if isinstance(message, ToolMessage):
        assert [found.tool_call_id for found in back] == [message.tool_call_id]
