"""Azure's agent server: runs are ``mcp_call`` without an approval's id, and the client may choose a job's id."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.services.durability import DurableJobs
from tests.services.purchases import Purchases
from tests.support.service_stories import Service, Story

HEADER = "x-agent-response-id"
ID = re.compile(r"[^_]+_[A-Za-z0-9]{50}")


@pytest.fixture
def story(new_story: Callable[..., Story], agentserver: Service) -> Story:
    return new_story(agentserver, options={"dialect": "agentserver"})


class TestJobs(DurableJobs):
    """Jobs on the agent server."""


class TestPurchases(Purchases):
    """Tools behind approvals on the agent server."""


def chosen_ids(story: Story) -> list[str | None]:
    """The ids that the client chose, a POST after the other."""
    return [exchange.headers.get(HEADER) for exchange in story.proxy.creates]


def test_the_client_chooses_the_id_of_a_job(story: Story) -> None:
    assert story.ask("Say hello").text == "hello. Turn 1."
    (chosen,) = chosen_ids(story)
    assert chosen is not None
    assert ID.fullmatch(chosen)
    assert story.jobs == [chosen]


def test_every_round_has_an_id_of_its_own(story: Story) -> None:
    assert story.ask("Look up prices").status == "answered"
    chosen = chosen_ids(story)
    assert len(set(chosen)) == 2
    assert story.jobs == chosen


def test_a_lost_answer_is_settled_without_a_person(story: Story) -> None:
    story.proxy.next_create = "answer lost"
    end = story.ask("Say hello")
    assert (end.status, end.text) == ("answered", "hello. Turn 1.")
    assert len(story.jobs) == 1
    assert set(chosen_ids(story)) == set(story.jobs)


def test_a_request_that_cannot_be_found_is_asked_about(story: Story) -> None:
    story.proxy.next_create = "never arrives"
    assert story.ask("Say hello").status == "waits"
    assert story.jobs == []


def test_a_post_of_a_killed_process_is_settled_by_the_next_one(story: Story) -> None:
    story.proxy.next_create = "answer held"
    run = story.start_asking("Say hello")
    story.proxy.wait_until_held()
    run.kill()
    story.proxy.let_go()
    end = story.resume()
    assert (end.status, end.text) == ("answered", "hello. Turn 1.")
    assert len(story.jobs) == 1
    assert set(chosen_ids(story)) == set(story.jobs)


def test_a_lost_follow_up_after_an_approval_is_settled_and_the_tool_runs_once(story: Story) -> None:
    assert story.ask("Buy milk").status == "waits"
    story.proxy.next_create = "answer lost"
    end = story.answer(True)
    assert (end.status, story.effects) == ("answered", ["buy milk"])
    assert len(story.jobs) == 2
