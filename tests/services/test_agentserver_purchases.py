"""Tools behind approvals on Azure's agent server, which reports runs as ``mcp_call`` without an approval's id."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.services.purchases import Purchases
from tests.support.service_stories import Service, Story


class TestAgentserver(Purchases):
    @pytest.fixture
    def story(self, new_story: Callable[..., Story], agentserver: Service) -> Story:
        return new_story(agentserver, options={"dialect": "agentserver"})
