"""A client-side function that tells how it was called, and what a process leaves that dies while it runs one."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.tools import tool

from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.ledger import EffectKey
from tests.support.compiled_graphs import latest_turn, ledger_of

DEAD = "another-host/1/1"
"""The worker that died."""


def add_tool(ran: list[Any] | None = None) -> Any:
    @tool
    async def add(a: int, b: int) -> int:
        """Add."""
        if ran is not None:
            ran.append((a, b))
        return a + b

    return add


async def claim_by_a_dead_worker(
    graph: CompiledSupervisorGraph, monkeypatch: pytest.MonkeyPatch, call_id: str, round_: int = 0
) -> None:
    """What a process leaves that is killed while it runs a call."""
    ledger = await ledger_of(graph)
    turn = await latest_turn(graph)
    claimed = await ledger.claim(EffectKey(turn.turn_id, round_, "tool", call_id), DEAD)
    assert claimed.mine
    monkeypatch.setattr("databricks_supervisor.ledger.run_once.is_dead", lambda worker: worker == DEAD)
