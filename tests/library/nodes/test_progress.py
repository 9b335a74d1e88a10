"""Progress events while a job runs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from databricks_supervisor.errors import ServiceError
from tests.support.graph_harness import CONFIG, DONE, QUEUED, RUNNING, GraphHarness, harness
from tests.support.scripted_service import message, refusal, response


async def told(h: GraphHarness) -> list[dict[str, Any]]:
    """The custom events of one question, whether or not it fails."""
    question = {"messages": [{"role": "user", "content": "How much?"}]}
    events: list[dict[str, Any]] = []
    try:
        async for event in h.graph.astream(question, CONFIG, stream_mode="custom"):
            events.append(event)
    except ServiceError:
        pass
    return [event for event in events if event["type"] == "supervisor.progress"]


async def test_progress_is_told_when_something_changes() -> None:
    retrieves = [
        QUEUED,
        RUNNING,
        RUNNING,
        response("in_progress", message("one")),
        response("completed", message("one")),
    ]
    async with harness(retrieves=retrieves) as h:
        events = await told(h)
    assert [(event["status"], event["items"]) for event in events] == [
        ("queued", 0),
        ("in_progress", 0),
        ("in_progress", 1),
        ("completed", 1),
    ]
    assert {event["response_id"] for event in events} == {"resp_1"}
    assert [event["polls"] for event in events] == [0, 2, 4, 5]
    assert events[0]["elapsed_s"] == 0


@pytest.mark.parametrize("polling", [2, 10, 30, "auto"])
async def test_progress_is_told_at_least_every_fifteen_seconds(polling: Any) -> None:
    async with harness(retrieves=[RUNNING] * 60 + [DONE], polling=polling) as h:
        events = await told(h)
    moments = [event["elapsed_s"] for event in events]
    assert max(after - before for before, after in pairwise(moments)) <= 15.001
    assert h.time.elapsed / 15 < len(events) < h.time.elapsed / 15 + 5


async def test_progress_goes_on_where_the_last_news_left_it() -> None:
    one, two = message("one", "m1"), message("two", "m2")
    retrieves = [*[response("in_progress", one)] * 30, response("completed", one, two)]
    async with harness(retrieves=retrieves, polling=2) as h:
        events = await told(h)
    moments = [(event["elapsed_s"], event["items"]) for event in events]
    assert moments == [(0, 0), (1, 1), (16, 1), (31, 1), (46, 1), (61, 2)]


async def test_progress_says_that_the_service_is_away() -> None:
    async with harness(retrieves=[RUNNING, refusal(503, headers={"Retry-After": "40"}), DONE]) as h:
        events = await told(h)
    assert [event["status"] for event in events] == [
        "queued",
        "in_progress",
        *["unreachable"] * 3,
        "completed",
    ]
