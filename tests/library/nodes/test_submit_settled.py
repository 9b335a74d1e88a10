"""A POST whose answer was lost, at a service that can tell what became of it: nobody is asked."""

from __future__ import annotations

from typing import Any

import pytest

from databricks_supervisor.client.dialect import DIALECTS
from tests.support.graph_harness import harness
from tests.support.scripted_service import Answer, message, refusal, response

LOST = Answer(drop="unanswered")
CONFLICT = refusal(409, "response_id_conflict: it exists")


def done(id: str) -> Answer:
    return response("completed", message("42"), id=id)


async def chosen_ids(h: Any) -> list[str]:
    return [post.headers["x-agent-response-id"] for post in h.service.posts]


async def test_a_response_that_exists_is_polled_and_not_submitted_again() -> None:
    async with harness([LOST], [response("queued", id="chosen"), done("chosen")], dialect="agentserver") as h:
        await h.ask()
        assert (await h.texts())[-1] == "42"
        assert len(h.service.posts) == 1
        assert (await h.job())["response_id"] == "chosen"


async def test_an_attempt_that_arrived_after_all_is_found_by_the_conflict() -> None:
    retrieves = [refusal(404), done("any")]
    async with harness(
        [LOST, CONFLICT], retrieves, dialect="agentserver", on_unknown_submission="resubmit"
    ) as h:
        await h.ask()
        assert (await h.texts())[-1] == "42"
        first, second = await chosen_ids(h)
        assert first == second == DIALECTS["agentserver"].chosen_id(f"{(await h.turn()).turn_id} 0")


@pytest.mark.parametrize(
    "answer", [refusal(404), refusal(403), refusal(503), Answer(drop="unanswered")], ids=str
)
async def test_where_the_service_cannot_say_a_person_is_asked(answer: Answer) -> None:
    async with harness([LOST], [answer], dialect="agentserver") as h:
        await h.ask()
        assert (await h.interrupt())["ids"] == ["resubmit_1"]
        assert len(h.service.posts) == 1


@pytest.mark.parametrize("dialect", [None, "ogx", "openai", "databricks"])
async def test_a_service_without_chosen_ids_is_not_asked(dialect: str | None) -> None:
    async with harness([LOST], [done("resp_1")], dialect=dialect) as h:
        await h.ask()
        assert (await h.interrupt())["ids"] == ["resubmit_1"]
        assert [request.method for request in h.service.requests] == ["POST"]


async def test_a_conflict_without_a_chosen_id_is_an_unknown_outcome() -> None:
    async with harness([CONFLICT], dialect="ogx") as h:
        await h.ask()
        assert (await h.interrupt())["ids"] == ["resubmit_1"]


async def test_a_list_of_tools_alone_is_no_answer() -> None:
    tools = {"type": "mcp_list_tools", "id": "m", "server_label": "shop", "tools": []}
    async with harness(retrieves=[response("completed", tools)], on_failure="message") as h:
        await h.ask()
        assert "without any output" in (await h.texts())[-1]
