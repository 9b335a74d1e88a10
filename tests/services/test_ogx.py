"""OGX, as its clients find it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.services.durability import DurableJobs
from tests.support.service_stories import Service, Story


class TestOgx(DurableJobs):
    @pytest.fixture
    def story(self, new_story: Callable[..., Story], ogx: Service) -> Story:
        return new_story(ogx)

    def test_an_approved_tool_runs(self, story: Story) -> None:
        approved, end = story.approve_all(story.ask("Buy milk"))
        assert (approved, end.text) == (["buy"], "bought milk. Turn 1.")
        assert story.effects == ["buy milk"]

    def test_a_refused_tool_does_not_run(self, story: Story) -> None:
        assert story.ask("Buy milk").status == "waits"
        story.answer(False)
        assert story.effects == []
