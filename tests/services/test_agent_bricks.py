"""The graph on the wire of Agent Bricks: sessions, invocations, and a lost POST that is sent again under its id."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.service_proxy import Fate
from tests.support.service_stories import Service, Story


@pytest.fixture
def story(new_story: Callable[..., Story], agent_bricks: Service) -> Story:
    settings = {"client": "agentbricks", "tools": [], "functions": None}
    return new_story(agent_bricks, spec=settings, options={"dialect": "agentbricks"})


def sent_ids(story: Story) -> list[str]:
    """The ids that were sent, a POST after the other."""
    return [exchange.body["id"] for exchange in story.proxy.creates]


def test_a_second_turn_knows_the_first(story: Story) -> None:
    assert story.ask("Say hello").text == "hello. Turn 1."
    end = story.ask("Say goodbye")
    assert (end.status, end.text) == ("answered", "goodbye. Turn 2.")
    assert story.jobs == sent_ids(story)
    assert len({exchange.body["session_id"] for exchange in story.proxy.creates}) == 1


def test_each_approved_tool_runs_once(story: Story) -> None:
    approved, end = story.approve_all(story.ask("Buy milk, then mail Bob"))
    assert story.effects == ["buy milk", "mail Bob"]
    assert approved == ["buy", "mail"]
    assert (end.status, end.text) == ("answered", "did buy milk. did mail Bob. Turn 1.")


def test_a_refusal_ends_in_an_answer_and_runs_nothing(story: Story) -> None:
    assert story.ask("Buy milk").status == "waits"
    end = story.answer(False)
    assert (end.status, end.text) == ("answered", "Not done. Turn 1.")
    assert story.effects == []


@pytest.mark.parametrize("fate", ["answer lost", "never arrives"])
def test_a_lost_post_is_sent_again_under_its_id(story: Story, fate: Fate) -> None:
    story.proxy.next_create = fate
    end = story.ask("Say hello")
    assert (end.status, end.text) == ("answered", "hello. Turn 1.")
    assert len(set(sent_ids(story))) == len(story.jobs) == 1


@pytest.mark.parametrize("fate", ["answer held", "held on its way"])
def test_a_post_of_a_killed_process_is_settled_by_the_next_one(story: Story, fate: Fate) -> None:
    story.proxy.next_create = fate
    run = story.start_asking("Say hello")
    story.proxy.wait_until_held()
    run.kill()
    story.proxy.let_go()
    end = story.resume()
    assert (end.status, end.text) == ("answered", "hello. Turn 1.")
    assert len(set(sent_ids(story))) == len(story.jobs) == 1


def test_a_lost_decision_is_sent_again_and_the_tool_runs_once(story: Story) -> None:
    assert story.ask("Buy milk").status == "waits"
    story.proxy.next_create = "answer lost"
    assert story.answer(True).status == "answered"
    assert story.effects == ["buy milk"]


def test_a_run_killed_while_it_polls_goes_on_with_the_same_invocation(story: Story) -> None:
    run = story.start_asking(f"Wait at {story.gate}, then say hello")
    story.wait_at_gate()
    run.kill()
    story.open_gate()
    assert story.resume().text == "hello. Turn 1."
    assert len(story.jobs) == len(story.proxy.creates) == 1


def test_a_failed_invocation_is_a_typed_error(story: Story) -> None:
    end = story.ask("Dance")
    assert (end.status, end.error) == ("error", "JobFailedError")
