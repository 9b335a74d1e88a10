"""Events: a pure function of a response's items, so that every replica numbers the same ones alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.types.responses import ResponsesAgentStreamEvent

from agent_server.http.events import (
    DELTA,
    SHORTEST_DELTA,
    Event,
    EventStream,
    ResponseSnapshot,
    deltas_of,
    response_of,
    sse,
)
from agent_server.http.output_items import output_item
from databricks_supervisor.items import as_item
from tests.support.items_strategies import any_items

Item = dict[str, Any]

QUEUED = ResponseSnapshot("resp_t_0", 1_750_000_000.5, "m", "thread", "queued")
ENDS = ("completed", "incomplete", "failed", "cancelled")


def message(text: str, id: str = "m") -> Item:
    """A message as it is on the wire."""
    part = {"type": "output_text", "text": text}
    return output_item({"type": "message", "id": id, "role": "assistant", "content": [part]}, id, ())


def at(items: list[Item], status: str = "in_progress", **more: Any) -> ResponseSnapshot:
    """A response with these items."""
    return replace(QUEUED, items=items, status=status, **more)


def all_events(snapshot: ResponseSnapshot, after: int = -1) -> list[Event]:
    """What a client that comes now is sent."""
    return list(EventStream(after).events(snapshot))


words = st.one_of(st.text(), st.text("ab é🙂\n", max_size=40))
long_texts = st.builds(lambda text, times: text * times, words, st.integers(1, 400))
wire_items = st.builds(
    lambda given, number: output_item(as_item(given), f"resp_1:{number}", {"a", "b"}),
    any_items,
    st.integers(0, 5),
)
item_lists = st.lists(st.one_of(wire_items, long_texts.map(message)), max_size=6)


# ---- deltas


@settings(deadline=None)
@given(long_texts)
@example("x" * (DELTA + SHORTEST_DELTA - 1))
@example("x" * (DELTA + SHORTEST_DELTA))
@example(" " * 5000)
def test_deltas_add_up_to_the_text(text: str) -> None:
    deltas = list(deltas_of(text))
    assert "".join(deltas) == text
    if len(deltas) > 1:
        assert all(len(delta.encode()) >= SHORTEST_DELTA for delta in deltas)
    assert all(deltas)


@settings(deadline=None)
@given(long_texts, long_texts)
def test_deltas_depend_on_the_text_alone(text: str, other: str) -> None:
    first = list(deltas_of(text))
    list(deltas_of(other))
    assert list(deltas_of(text)) == first


@pytest.mark.parametrize("text", ["word " * 6000, "x" * 30_000, "é" * 30_000, "🙂" * 30_000, '"\\' * 15_000])
def test_a_text_costs_few_bytes_on_the_wire(text: str) -> None:
    written = sum(len(sse(event).encode()) for event in all_events(at([message(text)], "completed")))
    assert written <= 4 * len(json.dumps(text, ensure_ascii=False).encode())


# ---- numbers and cursors


@settings(deadline=None)
@given(item_lists, st.sampled_from(ENDS))
def test_numbers_are_consecutive(items: list[Item], status: str) -> None:
    events = all_events(at(items, status))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@settings(deadline=None)
@given(item_lists, st.lists(st.integers(0, 6), max_size=4), st.sampled_from(ENDS))
def test_a_leg_that_grows_has_the_events_of_the_whole(
    items: list[Item], steps: list[int], status: str
) -> None:
    stream = EventStream()
    grown = list(stream.events(QUEUED))
    for step in sorted(min(step, len(items)) for step in steps):
        snapshot = at(items[:step])
        grown += stream.events(snapshot)
        assert stream.keep_alive(snapshot)["sequence_number"] == grown[-1]["sequence_number"]
    grown += stream.events(at(items, status, response_id="resp_remote"))
    assert grown == all_events(at(items, status, response_id="resp_remote"))


@settings(deadline=None)
@given(item_lists, st.sampled_from(ENDS), st.integers(0, 6))
def test_every_cursor_gets_exactly_the_rest(items: list[Item], status: str, seen: int) -> None:
    snapshot = at(items, status)
    events = all_events(snapshot)
    for after in range(-1, len(events) + 1):
        assert all_events(snapshot, after) == events[after + 1 :]
    for after in range(-1, len(events)):
        stream = EventStream(after)
        early = list(stream.events(at(items[:seen])))
        assert [*early, *stream.events(snapshot)] == events[after + 1 :]


def test_a_keep_alive_repeats_the_number_that_the_client_has() -> None:
    stream = EventStream(7)
    assert list(stream.events(QUEUED)) == []
    event = stream.keep_alive(QUEUED)
    assert (event["type"], event["sequence_number"]) == ("response.in_progress", 7)


def test_a_pause_that_is_answered_in_part_is_not_the_end_of_the_sequence() -> None:
    asked = at([message("One.")], "completed", open=True, pending=[{"id": "a"}])
    stream = EventStream()
    events = list(stream.events(asked))
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["sequence_number"] == events[-2]["sequence_number"]
    rest = list(
        EventStream(events[-1]["sequence_number"]).events(at([message("One."), message("Two.")], "completed"))
    )
    whole = all_events(at([message("One."), message("Two.")], "completed"))
    assert [*events[:-1], *rest] == whole


# ---- what they say


@pytest.mark.filterwarnings("ignore:Invalid status. cancelled")
@settings(deadline=None)
@given(item_lists, st.sampled_from(ENDS), st.booleans())
def test_every_event_passes_the_schema_and_json(items: list[Item], status: str, open_: bool) -> None:
    odd = [{"id": "a", "arguments": {"x": float("nan"), "y": "half \ud83d", "z": 10**30}}]
    failure = {"code": "x", "message": "half \ud83d"} if status == "failed" else None
    snapshot = at(items, status, pending=odd, open=open_, error=failure)
    for event in all_events(snapshot):
        ResponsesAgentStreamEvent.model_validate(event)
        line = sse(event).encode()
        assert line.startswith(b"data: {")
        assert line.endswith(b"}\n\n")
        assert line.count(b"\n") == 2
        json.loads(line[6:], parse_constant=pytest.fail)
    json.dumps(response_of(snapshot), ensure_ascii=False, allow_nan=False).encode()


@settings(deadline=None)
@given(st.text(min_size=3), st.sampled_from(ENDS))
def test_the_text_is_in_deltas_item_and_end_alone(text: str, status: str) -> None:
    item = message(f"<{text}>" * 300)
    whole = item["content"][0]["text"]
    for event in all_events(at([item], status)):
        if whole in _strings(event):
            assert event["type"] in ("response.output_item.done", f"response.{status}", "response.failed")
    deltas = [event["delta"] for event in all_events(at([item])) if "delta" in event]
    assert "".join(deltas) == whole


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner: Iterator[Any] = iter(
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    )
    return [text for each in inner for text in _strings(each)]


@settings(deadline=None)
@given(item_lists)
def test_clients_can_index_what_deltas_are_about(items: list[Item]) -> None:
    """OpenAI's stream helper looks up the item and its part when a delta comes."""
    output: list[Item] = []
    for event in all_events(at(items, "completed")):
        match event["type"]:
            case "response.output_item.added":
                assert event["output_index"] == len(output)
                output.append(json.loads(json.dumps(event["item"])))
            case "response.content_part.added":
                assert event["content_index"] == len(output[-1]["content"])
                output[event["output_index"]]["content"].append(dict(event["part"]))
            case "response.output_text.delta":
                assert event["item_id"] == output[event["output_index"]]["id"]
                output[event["output_index"]]["content"][event["content_index"]]["text"] += event["delta"]
            case "response.output_item.done":
                if event["item"]["type"] == "message":
                    done, seen = (
                        event["item"]["content"][0]["text"],
                        output[event["output_index"]]["content"][0]["text"],
                    )
                    assert seen == done
                output[event["output_index"]] = event["item"]
    assert output == items


def test_the_first_event_has_the_id_and_the_thread() -> None:
    first = all_events(QUEUED)[0]
    assert (first["type"], first["response"]["id"]) == ("response.created", "resp_t_0")
    assert first["response"]["custom_outputs"] == {"thread_id": "thread"}


def test_a_leg_begins_alike_whenever_its_client_comes() -> None:
    failed = at([], "failed", error={"code": "c", "message": "m"}, usage={"input_tokens": 1}, response_id="r")
    assert all_events(failed)[:2] == all_events(QUEUED)[:2]


@pytest.mark.parametrize(
    ("status", "types"),
    [
        ("completed", ["response.completed"]),
        ("incomplete", ["response.incomplete"]),
        ("failed", ["error", "response.failed"]),
        ("cancelled", ["error", "response.failed"]),
    ],
)
def test_how_a_leg_ends(status: str, types: list[str]) -> None:
    events = all_events(at([], status))
    assert [event["type"] for event in events[2:]] == types
    assert events[-1]["response"]["status"] == status


def test_whether_text_was_written_is_known() -> None:
    silent, spoken, late = EventStream(), EventStream(), EventStream(100)
    list(silent.events(at([], "failed")))
    list(spoken.events(at([message("Hi")], "failed")))
    list(late.events(at([message("Hi")], "failed")))
    assert [silent.wrote_text, spoken.wrote_text, late.wrote_text] == [False, True, False]
