"""Submitting: what is sent, and what is kept of the answer."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Any

import pytest
from langchain_core.tools import tool

from databricks_supervisor import genie_space
from databricks_supervisor.errors import ServiceError
from tests.support.graph_harness import ANSWERED, CONFIG, DROPPED, QUEUED, harness
from tests.support.scripted_service import API_KEY, Answer, message, response


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


# ---- what is sent (docs/wire.md: Submit)


async def test_the_request_is_what_the_contract_says() -> None:
    space = genie_space("01ef", "Sales")
    trace = {"catalog_name": "c", "schema_name": "s", "table_prefix": "p"}
    async with harness(
        model="databricks-claude",
        instructions="Be kind",
        tools=[space, add],
        parameters={"trace_destination": trace},
    ) as h:
        await h.ask("How much?")
    (request,) = h.service.posts
    function = request.body["tools"][1]
    assert request.body == {
        "model": "databricks-claude",
        "instructions": "Be kind",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "How much?"}]}
        ],
        "tools": [space, function],
        "background": True,
        "stream": False,
        "trace_destination": trace,
    }
    assert (function["type"], function["name"], function["parameters"]["type"]) == (
        "function",
        "add",
        "object",
    )


async def test_what_was_not_given_is_not_sent() -> None:
    async with harness() as h:
        await h.ask()
    assert set(h.service.posts[0].body) == {"model", "input", "background", "stream"}


def nulls(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [key for key, inner in value.items() if inner is None or nulls(inner)]
    return [inner for inner in value if inner is None or nulls(inner)] if isinstance(value, list) else []


async def test_the_whole_history_is_sent_without_nulls_or_an_earlier_id() -> None:
    echoed = {**message("42"), "namespace": None, "caller": None, "async_": None, "phase": None}
    creates = [response("queued", id="resp_1"), response("queued", id="resp_2")]
    retrieves = [response("completed", echoed), response("completed", message("43", "msg_2"), id="resp_2")]
    async with harness(creates, retrieves) as h:
        await h.ask("How much?")
        await h.ask("And now?")
    body = h.service.posts[1].body
    said = [(item["role"], item["content"][0]["text"]) for item in body["input"]]
    assert said == [("user", "How much?"), ("assistant", "42"), ("user", "And now?")]
    assert nulls(body) == []
    assert "previous_response_id" not in body


async def test_each_attempt_and_each_turn_has_an_idempotency_key_of_its_own() -> None:
    creates = [DROPPED, QUEUED, response("queued", id="resp_2")]
    retrieves = [
        response("completed", message("42")),
        response("completed", message("43", "msg_2"), id="resp_2"),
    ]
    async with harness(creates, retrieves, on_unknown_submission="resubmit") as h:
        await h.ask("one")
        await h.ask("two")
    keys = [post.headers["idempotency-key"] for post in h.service.posts]
    assert all(keys)
    assert len(set(keys)) == 3


async def test_a_question_with_odd_characters_arrives_as_it_is() -> None:
    text = 'Grüße 👋 "quoted" \\ \u2028 \x00 end'
    async with harness() as h:
        await h.ask(text)
    assert h.service.posts[0].body["input"][0]["content"][0]["text"] == text


# ---- what is kept


async def test_the_id_is_in_the_state_and_in_the_ledger() -> None:
    async with harness([response("queued", id="resp_" + "x" * 186)]) as h:
        await h.ask()
        submission = await h.submission()
    assert submission is not None
    assert submission.outcome is not None
    assert submission.outcome["response_id"] == (await h.job())["response_id"] == "resp_" + "x" * 186


async def test_a_job_that_is_terminal_at_once_is_read_at_once() -> None:
    async with harness([response("completed", message("42"))]) as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    assert h.time.slept == [0.0]


async def test_cancelling_the_run_during_the_post_does_not_lose_the_id() -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    async with harness([Answer(body=QUEUED.body, reached=reached, until=go_on)]) as h:
        run = asyncio.ensure_future(h.ask())
        await reached.wait()
        run.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run
        submission = await h.submission()
        assert submission is not None
        assert submission.outcome is not None
        assert submission.outcome["response_id"] == "resp_1"
        await h.resume()
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 1


# ---- nobody knows what became of it


async def test_two_processes_that_submit_one_turn_make_one_job() -> None:
    async with harness() as h:
        await asyncio.gather(*(h.ask() for _ in range(5)))
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 1


# ---- secrets


@pytest.mark.parametrize("status", [200, 400, 401, 403, 410, 429, 500])
@pytest.mark.parametrize("on_failure", ["raise", "message"])
async def test_credentials_that_the_service_repeats_go_nowhere(
    status: int, on_failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"message": f"I got Authorization: Bearer {API_KEY}, that is {API_KEY}"}
    async with harness([Answer(status, body)], on_failure=on_failure) as h:
        said = ""
        try:
            await h.ask()
        except ServiceError as error:
            said = "".join(traceback.format_exception(error)) + repr(error)
        state = await h.graph.aget_state(CONFIG)
        ledger = await (await h.ledger()).effects((await h.turn()).turn_id)
        kept = repr([saved async for saved in h.saver.alist(CONFIG)])
    for text in (said, repr(state), repr(ledger), kept, caplog.text):
        assert API_KEY not in text
