"""An agent on Azure's agent server, as its clients find it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.services.durability import DurableJobs
from tests.support.service_stories import Service, Story


class TestAgentserver(DurableJobs):
    @pytest.fixture
    def story(self, new_story: Callable[..., Story], agentserver: Service) -> Story:
        return new_story(agentserver)

    def test_an_approved_tool_runs(self, story: Story) -> None:
        approved, end = story.approve_all(story.ask("Buy milk"))
        assert (approved, end.text) == (["buy"], "bought milk. Turn 1.")
        assert story.effects == ["buy milk"]

    def test_a_refusal_ends_in_an_answer_and_runs_nothing(self, story: Story) -> None:
        assert story.ask("Buy milk").status == "waits"
        end = story.answer(False)
        assert (end.status, end.text) == ("answered", "Not done. Turn 1.")
        assert story.effects == []
