"""Items on the wire: whatever the service gives, MLflow's schema takes what becomes of it, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.types.responses_helpers import OutputItem
from pydantic import ValidationError

from agent_server.http.output_items import output_item
from databricks_supervisor.items import as_item
from tests.support.items_strategies import any_items, json_values, texts

Item = dict[str, Any]

ID = "resp_1:0"
TEXT = {"type": "output_text", "text": "Hi", "annotations": []}
MESSAGE = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [TEXT]}
CITATION = {
    "type": "url_citation",
    "url": "https://example.com",
    "title": "T",
    "start_index": 0,
    "end_index": 2,
}


def on_the_wire(item: Item, shown: tuple[str, ...] = ("c",)) -> Item:
    """The item as it is sent, after MLflow's schema and JSON have read it."""
    made = output_item(item, ID, shown)
    OutputItem.model_validate(made)
    assert json.loads(json.dumps(made, ensure_ascii=False, allow_nan=False).encode()) == made
    return made


def text_of(item: Item) -> str:
    """The text of a message on the wire."""
    (part,) = item["content"]
    assert part["type"] == "output_text"
    text: str = part["text"]
    return text


def leaves(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)


# ---- what MLflow's schema refuses

REFUSED: dict[str, Item] = {
    "status queued": {**MESSAGE, "status": "queued"},
    "status of another type": {**MESSAGE, "status": 3},
    "message without an id": {**MESSAGE, "id": None},
    "reasoning without an id": {"type": "reasoning", "id": None, "summary": []},
    "approval request without an id": {
        "type": "mcp_approval_request",
        "id": None,
        "name": "n",
        "server_label": "s",
        "arguments": "{}",
    },
    "empty content": {**MESSAGE, "content": []},
    "content of null": {**MESSAGE, "content": None},
    "annotations of null": {**MESSAGE, "content": [{**TEXT, "annotations": None}]},
    "annotations of an unknown type": {**MESSAGE, "content": [{**TEXT, "annotations": [{"type": "new"}]}]},
    "output of null": {"type": "function_call_output", "call_id": "c", "output": None},
    "output of an object": {"type": "function_call_output", "call_id": "c", "output": {"rows": [1]}},
    "no server label": {"type": "mcp_approval_request", "id": "a", "name": "n", "arguments": "{}"},
    "mcp_call": {"type": "mcp_call", "id": "x", "name": "search", "output": "found"},
    "mcp_list_tools": {"type": "mcp_list_tools", "id": "x", "tools": [{"name": "search"}]},
    "custom_tool_call": {"type": "custom_tool_call", "id": "x", "call_id": "c", "name": "n", "input": "in"},
    "compaction": {"type": "compaction", "id": "x", "encrypted_content": "blob"},
    "item_reference": {"type": "item_reference", "id": "x"},
    "code_interpreter_call": {"type": "code_interpreter_call", "id": "x", "code": "1 + 1"},
    "role of another": {**MESSAGE, "role": "user"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_schema_refuses_is_mended(name: str) -> None:
    with pytest.raises(ValidationError):
        OutputItem.model_validate(REFUSED[name])
    on_the_wire(REFUSED[name])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (
            {"type": "mcp_call", "id": "x", "name": "search", "server_label": "web", "output": "found"},
            "found",
        ),
        ({"type": "mcp_list_tools", "id": "x", "tools": [{"name": "search"}]}, "search"),
        ({"type": "custom_tool_call", "id": "x", "call_id": "c", "name": "shell", "input": "ls -l"}, "ls -l"),
        ({"type": "code_interpreter_call", "id": "x", "code": "1 + 1"}, "1 + 1"),
        ({"type": "item_reference", "id": "x"}, "item_reference"),
        ({"type": "unreadable", "value": "junk"}, "junk"),
        ({"type": "function_call_output", "call_id": "unseen", "output": "42"}, "42"),
        ({"type": None, "note": "nameless"}, "nameless"),
        ({"type": ["odd"], "note": "listed"}, "listed"),
    ],
)
def test_types_that_clients_do_not_know_are_shown_as_reasoning(item: Item, said: str) -> None:
    made = on_the_wire(item)
    assert made["type"] == "reasoning"
    assert said in made["summary"][0]["text"]


# ---- any item at all


@settings(deadline=None)
@given(any_items, st.sets(st.sampled_from(["a", "b", "call_x", ""])))
def test_any_item_becomes_one_that_the_schema_takes(given_item: Any, shown: set[str]) -> None:
    item = as_item(given_item)
    before = json.dumps(item)
    made = output_item(item, ID, shown)
    OutputItem.model_validate(made)
    assert json.loads(json.dumps(made, ensure_ascii=False, allow_nan=False).encode()) == made
    assert json.dumps(item) == before, "the original stays as it is"
    assert output_item(json.loads(before), ID, sorted(shown)) == made, "the same everywhere"


numbered = st.recursive(
    st.just("*"),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(
            st.sampled_from(["text", "a", "b", "type", "refusal"]), inner, min_size=1, max_size=3
        ),
    ),
    max_leaves=5,
)
contents = st.one_of(
    numbered,
    st.lists(
        st.one_of(
            numbered,
            numbered.map(lambda text: {"type": "output_text", "text": text, "annotations": None}),
            numbered.map(lambda text: {"type": "refusal", "refusal": text}),
            numbered.map(lambda url: {"type": "input_image", "image_url": url}),
        ),
        max_size=4,
    ),
)


@settings(deadline=None)
@given(
    st.one_of(
        contents.map(lambda content: {"type": "message", "role": "assistant", "content": content}),
        contents.map(lambda content: {"role": "assistant", "content": content}),
        st.builds(
            lambda name, arguments: {
                "type": "function_call",
                "call_id": "c",
                "name": name,
                "arguments": arguments,
            },
            numbered,
            numbered,
        ),
        numbered.map(lambda call: {"type": "function_call", "call_id": call, "name": "n", "arguments": "{}"}),
        numbered.map(lambda output: {"type": "function_call_output", "call_id": "c", "output": output}),
        numbered.map(lambda output: {"type": "function_call_output", "call_id": "other", "output": output}),
        numbered.map(lambda call: {"type": "function_call_output", "call_id": call, "output": "x"}),
        st.builds(
            lambda summary, content: {"type": "reasoning", "summary": summary, "content": content},
            numbered,
            numbered,
        ),
        st.builds(
            lambda name, label, arguments: {
                "type": "mcp_approval_request",
                "id": "a",
                "name": name,
                "server_label": label,
                "arguments": arguments,
            },
            numbered,
            numbered,
            numbered,
        ),
        numbered.map(lambda said: {"note": said}),
        st.builds(lambda name, rest: {"type": "new_in_2031", "name": name, "rest": rest}, numbered, numbered),
    )
)
def test_nothing_that_an_item_says_is_dropped(item: Item) -> None:
    count = iter(range(1000))

    def number(value: Any) -> Any:
        """Each text becomes one of a kind."""
        if isinstance(value, dict):
            return {key: number(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [number(inner) for inner in value]
        return f"<{next(count)}>" if value == "*" else value

    numbered_item = number(item)
    made = json.dumps(on_the_wire(numbered_item), ensure_ascii=False)
    for leaf in leaves(numbered_item):
        if leaf.startswith("<"):
            assert leaf in made


@settings(deadline=None)
@given(st.lists(texts, max_size=4))
def test_the_parts_of_a_message_become_one_text(parts: list[str]) -> None:
    item = {**MESSAGE, "content": [{"type": "output_text", "text": part} for part in parts]}
    readable = [part.encode("utf-8", "replace").decode() for part in parts if part]
    assert text_of(on_the_wire(item)) == "\n\n".join(readable)


def test_citations_move_with_the_text_that_they_are_about() -> None:
    parts = [{**TEXT, "text": "First."}, {**TEXT, "text": "Second.", "annotations": [CITATION]}]
    made = on_the_wire({**MESSAGE, "content": parts})
    (found,) = made["content"][0]["annotations"]
    assert text_of(made)[found["start_index"] : found["end_index"]] == "Se"


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["url", "title", "file_id", "index", "start_index", "x"]), json_values)
)
def test_no_annotation_is_too_odd(fields: Item) -> None:
    for kind in ("url_citation", "file_citation", "file_path", "container_file_citation", "", None):
        on_the_wire({**MESSAGE, "content": [{**TEXT, "annotations": [{"type": kind, **fields}, fields, 3]}]})


def test_a_citation_without_a_title_is_named_by_its_address() -> None:
    made = on_the_wire({**MESSAGE, "content": [{**TEXT, "annotations": [{**CITATION, "title": None}]}]})
    assert made["content"][0]["annotations"][0]["title"] == "https://example.com"


def test_ids_are_made_of_the_id_of_the_message() -> None:
    nameless = {**MESSAGE, "id": None}
    assert output_item(nameless, "resp_1:0", ())["id"] == output_item(nameless, "resp_1:0", ())["id"]
    assert output_item(nameless, "resp_1:0", ())["id"] != output_item(nameless, "resp_1:1", ())["id"]
    assert output_item(MESSAGE, "resp_1:0", ())["id"] == "m"


def test_what_nobody_could_write_as_json_is_mended() -> None:
    deep: Any = "bottom"
    for _ in range(5000):
        deep = [deep]
    for odd in (deep, float("nan"), float("inf"), 10**400):
        on_the_wire({**MESSAGE, "content": [{**TEXT, "annotations": [{**CITATION, "x": odd}]}]}, ())
        on_the_wire({"type": "function_call", "call_id": "c", "name": "n", "arguments": odd}, ())
        on_the_wire({"type": "new_in_2031", "value": odd}, ())


def test_an_output_is_shown_as_one_where_its_call_was_shown() -> None:
    output = {"type": "function_call_output", "call_id": "c", "output": {"rows": [1]}}
    assert on_the_wire(output)["output"] == '{"rows": [1]}'
    assert on_the_wire(output, ())["type"] == "reasoning"
