"""Services that run whatever their input lets them run, and report the runs of approved calls in different ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.services.purchases import Purchases
from tests.support.service_stories import Service, Story


@pytest.mark.parametrize("way", ["function", "joined", "unjoined", "echo"])
class TestApprovedRuns(Purchases):
    @pytest.fixture
    def story(
        self, new_story: Callable[..., Story], approved_runs: Callable[[str], Service], way: str
    ) -> Story:
        return new_story(approved_runs(way))
