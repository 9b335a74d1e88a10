"""What is still written for a turn that the ledger has no longer as its thread's latest one."""

from __future__ import annotations

import asyncio

import pytest

from databricks_supervisor.errors import TurnEndedError
from tests.support.graph_harness import GraphHarness, harness
from tests.support.ledgers import new_turn
from tests.support.scripted_service import Answer, message, response

APPROVAL = {
    "type": "mcp_approval_request",
    "id": "a1",
    "name": "send",
    "server_label": "mail",
    "arguments": "{}",
}


async def polled_while(change: str, s: GraphHarness, go_on: asyncio.Event, reached: asyncio.Event) -> None:
    """Ask, and change the ledger while the job is read."""
    run = asyncio.ensure_future(s.ask())
    await reached.wait()
    ledger = await s.ledger()
    if change == "lost":
        await ledger.delete_thread("thread")
    else:
        await ledger.end_turn((await s.turn()).turn_id)
        await ledger.open_turn(new_turn("another"))
    go_on.set()
    await run


async def test_a_job_whose_turn_the_ledger_lost_is_still_read() -> None:
    go_on, reached = asyncio.Event(), asyncio.Event()
    done = response("completed", message("42"))
    async with harness(retrieves=[Answer(body=done.body, until=go_on, reached=reached)]) as s:
        await polled_while("lost", s, go_on, reached)
        assert (await s.texts())[-1] == "42"


async def test_nothing_is_written_for_a_turn_that_another_one_followed() -> None:
    go_on, reached = asyncio.Event(), asyncio.Event()
    done = response("completed", message("42"))
    async with harness(retrieves=[Answer(body=done.body, until=go_on, reached=reached)]) as s:
        with pytest.raises(TurnEndedError, match="another message followed"):
            await polled_while("followed", s, go_on, reached)
        assert "42" not in await s.texts()


async def test_a_round_of_a_deleted_thread_is_neither_submitted_nor_recorded_as_failed() -> None:
    async with harness(retrieves=[response("completed", APPROVAL)]) as s:
        await s.ask()
        posts = len(s.service.posts)
        await (await s.ledger()).delete_thread("thread")
        with pytest.raises(TurnEndedError):
            await s.resume(True)
        assert len(s.service.posts) == posts
        assert (await s.job()).get("failure") is None
