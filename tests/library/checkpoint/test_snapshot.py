"""A thread's checkpoint as it is read, and the wait until a question is in one."""

from __future__ import annotations

import pytest

from databricks_supervisor.checkpoint import snapshot
from databricks_supervisor.checkpoint.snapshot import Snapshot, wait_until_stored


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_STORED_EVERY_S", 0.0)


async def test_the_wait_ends_when_the_turn_is_in_the_checkpoint() -> None:
    reads = [Snapshot(), Snapshot(job={"turn_id": "another"}), Snapshot(job={"turn_id": "turn"})]

    async def read() -> Snapshot:
        return reads.pop(0)

    assert await wait_until_stored(read, "turn")
    assert reads == []


async def test_a_turn_that_never_comes_is_not_waited_for_without_end() -> None:
    async def read() -> Snapshot:
        return Snapshot(job={"turn_id": "another"})

    assert not await wait_until_stored(read, "turn")
