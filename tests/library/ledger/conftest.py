"""Fixtures of the ledger's tests: a ledger of each kind, and sleep that takes no time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from databricks_supervisor.ledger import Ledger, MemoryLedger, SqlLedger
from tests.library.ledger.counted_action import Sleeps
from tests.support.ledgers import Clock, MakeLedger


@pytest_asyncio.fixture(params=["memory", "sqlite", "postgres"])
async def make_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeLedger]:
    """Makes ledgers that share what they hold (the one in memory is one and the same)."""
    made: list[Ledger] = []

    def make_one(clock: Clock | None = None) -> Ledger:
        if request.param == "memory":
            made.append(made[0] if made else MemoryLedger(*([clock] if clock else [])))
        else:
            made.append(SqlLedger(url, clock=clock))
        return made[-1]

    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{tmp_path}/folder/ledger.db"
    yield make_one
    for ledger in made:
        await ledger.aclose()


@pytest.fixture
def ledger(make_ledger: MakeLedger) -> Ledger:
    return make_ledger()


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    """Sleeping takes no time."""
    sleeps = Sleeps()
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        if seconds:
            sleeps.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", at_once)
    return sleeps
