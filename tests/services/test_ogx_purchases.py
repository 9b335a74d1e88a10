"""Tools behind approvals on OGX: it runs whatever its input lets it run, and reports runs as ``mcp_call``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.services.purchases import Purchases
from tests.support.service_stories import Service, Story


class TestOgx(Purchases):
    @pytest.fixture
    def story(self, new_story: Callable[..., Story], ogx: Service) -> Story:
        return new_story(ogx, options={"dialect": "ogx"})
