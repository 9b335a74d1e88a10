"""Bodies: read and checked before anything is done with them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_server.http.errors import ApiError
from agent_server.http.request import CreateRequest, parse_request
from tests.support.items_strategies import any_items, json_values

HELLO = {"role": "user", "content": "Hi"}


def read(body: Any, **headers: str) -> CreateRequest:
    """What is made of a body."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_request(raw, {name.replace("_", "-"): value for name, value in headers.items()})


def refused(body: Any, **headers: str) -> ApiError:
    """How a body is refused."""
    with pytest.raises(ApiError) as caught:
        read(body, **headers)
    assert caught.value.status == 400
    assert caught.value.message.endswith("Nothing was submitted.")
    return caught.value


def read_or_refuse(raw: bytes) -> bool:
    """Whether a body has items, or is the client's mistake."""
    try:
        return bool(read(raw).items)
    except ApiError as error:
        return error.status == 400


def nested(levels: int) -> bytes:
    """A question with a part of so many levels."""
    part = b'{"type": "input_text", "text": "Hi", "x": ' + b"[" * levels + b"]" * levels + b"}"
    return b'{"input": [{"role": "user", "content": [' + part + b"]}]}"


def test_a_text_is_a_message_of_the_user() -> None:
    assert read({"input": "Hi"}).items == [{"type": "message", "role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("body", "thread", "conversation"),
    [
        ({}, None, False),
        ({"custom_inputs": {"thread_id": "t"}}, "t", False),
        ({"custom_inputs": {"session_id": "s"}}, "s", False),
        ({"context": {"conversation_id": "c"}}, "c", True),
        ({"custom_inputs": {"session_id": "s"}, "context": {"conversation_id": "c"}}, "s", False),
        ({"custom_inputs": {"thread_id": "t", "session_id": "s"}}, "t", False),
        ({"custom_inputs": None, "context": {"conversation_id": "a/b ü🙂"}}, "a/b ü🙂", True),
        ({"custom_inputs": {"thread_id": None}, "context": {"conversation_id": None}}, None, False),
    ],
)
def test_the_thread_is_the_one_that_is_named_first(
    body: dict[str, Any], thread: str | None, conversation: bool
) -> None:
    ask = read({"input": "Hi", **body})
    assert (ask.thread, ask.conversation) == (thread, conversation)


def test_flags_and_ids_are_read() -> None:
    ask = read(
        {"input": "Hi", "stream": True, "background": None, "previous_response_id": "resp_t_0"},
        idempotency_key="k",
    )
    assert (ask.stream, ask.background, ask.previous, ask.key) == (True, False, "resp_t_0", "k")


def test_function_tools_are_kept_without_what_the_service_does_not_know() -> None:
    tool = {
        "type": "function",
        "name": "f",
        "description": None,
        "parameters": {"type": "object"},
        "strict": True,
    }
    assert read({"input": "Hi", "tools": [tool]}).tools == [
        {"type": "function", "name": "f", "parameters": {"type": "object"}}
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"Hi"',
        b"\xff\xfe{",
        b'{"input": "\xe9"}',
        b'{"input": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"input": "Hi"} {}',
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    assert refused(raw).param is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [HELLO, None]}, "input[1]"),
        ({"input": [{"type": 3}]}, "input[0].type"),
        ({"input": [{"type": None, **HELLO}]}, "input[0].type"),
        ({"input": [{}]}, "input[0].role"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": ["user"], "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": {"text": "x"}}]}, "input[0].content"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": ""}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "a\0b"}]}, "input[0].call_id"),
        (
            {"input": [{"type": "mcp_approval_response", "approval_request_id": "\ud83d", "approve": True}]},
            "input[0].approval_request_id",
        ),
        (
            {"input": [{"type": "mcp_approval_response", "approval_request_id": "a", "approve": "yes"}]},
            "input[0].approve",
        ),
        ({"input": [{"type": "mcp_approval_response", "approval_request_id": "a"}]}, "input[0].approve"),
        ({"input": "Hi", "stream": "yes"}, "stream"),
        ({"input": "Hi", "background": 1}, "background"),
        ({"input": "Hi", "previous_response_id": 3}, "previous_response_id"),
        ({"input": "Hi", "previous_response_id": ""}, "previous_response_id"),
        ({"input": "Hi", "custom_inputs": []}, "custom_inputs"),
        ({"input": "Hi", "custom_inputs": {"thread_id": 3}}, "custom_inputs.thread_id"),
        ({"input": "Hi", "custom_inputs": {"thread_id": " "}}, "custom_inputs.thread_id"),
        ({"input": "Hi", "custom_inputs": {"session_id": "a\0"}}, "custom_inputs.session_id"),
        ({"input": "Hi", "context": {"conversation_id": "a\nb"}}, "context.conversation_id"),
        ({"input": "Hi", "context": {"conversation_id": "\ud83d"}}, "context.conversation_id"),
        ({"input": "Hi", "context": {"conversation_id": "x" * 1001}}, "context.conversation_id"),
        ({"input": "Hi", "tools": {}}, "tools"),
        ({"input": "Hi", "tools": [3]}, "tools"),
        ({"input": "Hi", "tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"input": "Hi", "tools": [{"type": "function", "parameters": {"x": 10**30}}]}, "tools[0]"),
        ({"input": "Hi", "tools": [{"type": "function", "parameters": {"x": float("nan")}}]}, "tools[0]"),
        ({"input": "Hi", "tools": [{"type": "function", "name": "\ud83d"}]}, "tools[0]"),
    ],
)
def test_what_is_wrong_is_named(body: Any, param: str) -> None:
    assert refused(body).param == param


def test_keys_and_sizes_have_limits() -> None:
    assert refused({"input": "Hi"}, idempotency_key=" ").param == "Idempotency-Key"
    assert refused({"input": [HELLO] * 10_001}).param == "input"
    assert len(read({"input": [HELLO] * 10_000}).items) == 10_000


@pytest.mark.parametrize("levels", [50, 97, 98, 500, 950, 5000])
def test_nesting_has_a_limit(levels: int) -> None:
    if levels < 98:
        assert read(nested(levels)).items
    else:
        refused(nested(levels))


@pytest.mark.parametrize(
    "content",
    [
        [],
        [None],
        [3, True, "x"],
        [{"type": ["odd"]}],
        [{"type": "input_image", "image_url": None}],
        "",
        "\0",
        "\ud83d",
    ],
)
def test_odd_contents_are_left_to_the_library(content: Any) -> None:
    assert read({"input": [{"role": "user", "content": content}]}).items[0]["content"] == content


names = st.sampled_from(
    ["input", "stream", "background", "custom_inputs", "context", "tools", "metadata", "previous_response_id"]
)


@settings(deadline=None)
@given(
    st.one_of(json_values, st.dictionaries(names, st.one_of(json_values, st.lists(any_items, max_size=3))))
)
def test_every_body_is_read_or_refused(body: Any) -> None:
    assert read_or_refuse(json.dumps(body).encode())


@settings(deadline=None)
@given(st.binary())
def test_every_byte_is_read_or_refused(raw: bytes) -> None:
    assert read_or_refuse(raw)
