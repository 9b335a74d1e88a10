"""OGX: it runs whatever its input lets it run, and reports runs as ``mcp_call`` without an approval's id."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.services.durability import DurableJobs
from tests.services.purchases import Purchases
from tests.support.service_stories import Service, Story


@pytest.fixture
def story(new_story: Callable[..., Story], ogx: Service) -> Story:
    return new_story(ogx, options={"dialect": "ogx"})


class TestJobs(DurableJobs):
    """Jobs on OGX."""


class TestPurchases(Purchases):
    """Tools behind approvals on OGX."""

    # OGX knows an approval by the call's name and arguments: a second such call of the job is not asked about.
    test_the_same_tool_twice_is_asked_about_twice_and_runs_twice = None

    def test_an_approval_covers_every_call_of_its_job_with_the_same_arguments(self, story: Story) -> None:
        approved, end = story.approve_all(story.ask("Buy milk, then buy milk"))
        assert story.effects == ["buy milk", "buy milk"]
        assert approved == ["buy"]
        assert end.status == "answered"
