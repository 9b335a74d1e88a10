"""Which ledger goes with which checkpoints: one that lives exactly as long as they do."""

from __future__ import annotations

import gc
import sqlite3
from pathlib import Path
from typing import Any

import aiosqlite
import psycopg
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from psycopg_pool import AsyncConnectionPool

from databricks_supervisor import MemoryLedger, SqlLedger
from databricks_supervisor.checkpoint.ledger_resolver import DEFAULT_FILE, LedgerResolver, _of_memory
from tests.support.compiled_graphs import latest_turn
from tests.support.scripted_agent import ScriptedAgent, question, texts, thread


async def test_in_memory_checkpoints_get_a_ledger_in_memory_though_another_one_was_given(
    tmp_path: Path,
) -> None:
    given = SqlLedger(f"sqlite:///{tmp_path}/never.sqlite")
    saver = InMemorySaver()
    ledger = await LedgerResolver(given).resolve(saver)
    assert isinstance(ledger, MemoryLedger)
    assert await LedgerResolver(None).resolve(saver) is ledger
    assert await LedgerResolver(None).resolve(InMemorySaver()) is not ledger
    assert files(tmp_path) == []


async def test_a_copy_of_an_in_memory_checkpointer_has_the_same_ledger() -> None:
    saver = InMemorySaver()
    copy = saver.with_allowlist([])
    assert await LedgerResolver(None).resolve(copy) is await LedgerResolver(None).resolve(saver)


async def test_the_ledger_in_memory_goes_when_its_checkpoints_go() -> None:
    saver = InMemorySaver()
    await LedgerResolver(None).resolve(saver)
    before = len(_of_memory)
    del saver
    gc.collect()
    assert len(_of_memory) < before


async def test_a_given_ledger_serves_checkpoints_that_are_kept(tmp_path: Path) -> None:
    given = MemoryLedger()
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
        assert await LedgerResolver(given).resolve(saver) is given
    assert await LedgerResolver(given).resolve(None) is given


async def test_without_a_checkpointer_it_is_a_new_one_in_memory_each_time() -> None:
    ledgers = LedgerResolver(None)
    first, second = await ledgers.resolve(None), await ledgers.resolve(None)
    assert isinstance(first, MemoryLedger)
    assert first is not second


def files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if not file.name.endswith(("-wal", "-shm"))]


def tables(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}


async def test_beside_checkpoints_in_a_file_it_is_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "folder with spaces" / "c #1 100%.sqlite"
    path.parent.mkdir()
    agent = ScriptedAgent()
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        graph = agent.graph().compile(checkpointer=saver)
        await graph.ainvoke(question(), thread())
        await (await graph.parts.ledgers.resolve(saver)).aclose()
    assert {"checkpoints", "writes"} < tables(path)
    assert any("turn" in name for name in tables(path))
    assert files(path.parent) == [path.name]


async def test_sync_and_async_checkpointers_of_one_file_share_it(tmp_path: Path) -> None:
    path = str(tmp_path / "c.sqlite")
    with SqliteSaver.from_conn_string(path) as sync_saver:
        async with AsyncSqliteSaver.from_conn_string(path) as async_saver:
            ledgers = LedgerResolver(None)
            assert await ledgers.resolve(sync_saver) is await ledgers.resolve(async_saver)


async def test_sqlite_in_memory_gets_a_ledger_in_memory() -> None:
    async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
        ledgers = LedgerResolver(None)
        ledger = await ledgers.resolve(saver)
        assert isinstance(ledger, MemoryLedger)
        assert await ledgers.resolve(saver) is ledger
    with SqliteSaver.from_conn_string(":memory:") as other:
        assert isinstance(await LedgerResolver(None).resolve(other), MemoryLedger)


async def test_a_relative_path_is_the_same_file_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    async with aiosqlite.connect("c.sqlite") as connection:
        saver = AsyncSqliteSaver(connection)
        monkeypatch.chdir(tmp_path / "elsewhere")
        agent = ScriptedAgent()
        graph = agent.graph().compile(checkpointer=saver)
        await graph.ainvoke(question(), thread())
        await (await graph.parts.ledgers.resolve(saver)).aclose()
    assert not list((tmp_path / "elsewhere").iterdir())
    assert any("turn" in name for name in tables(tmp_path / "c.sqlite"))


class OtherSaver(BaseCheckpointSaver[Any]):
    pass


async def test_checkpoints_of_another_kind_get_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledgers = LedgerResolver(None)
    ledger = await ledgers.resolve(OtherSaver())
    assert await ledgers.resolve(OtherSaver()) is ledger
    await ledger.delete_thread("t")
    await ledger.aclose()
    assert (tmp_path / DEFAULT_FILE).exists()


async def test_a_checkpointer_of_ones_own_that_derives_from_sqlite_is_beside_it(tmp_path: Path) -> None:
    class Mine(AsyncSqliteSaver):
        pass

    async with aiosqlite.connect(tmp_path / "c.sqlite") as connection:
        ledger = await LedgerResolver(None).resolve(Mine(connection))
        await ledger.delete_thread("t")
        await ledger.aclose()
    assert any("turn" in name for name in tables(tmp_path / "c.sqlite"))


@pytest.mark.parametrize("kind", ["connection", "pool"])
async def test_beside_checkpoints_in_postgres_it_is_in_the_same_database(
    kind: str, postgres_url: str
) -> None:
    agent = ScriptedAgent()
    if kind == "connection":
        async with AsyncPostgresSaver.from_conn_string(postgres_url) as saver:
            await run_on(agent, saver)
    else:
        settings: Any = {"autocommit": True}
        async with AsyncConnectionPool(postgres_url, kwargs=settings, min_size=1, max_size=4) as pool:
            await run_on(agent, AsyncPostgresSaver(pool))  # type: ignore[arg-type]
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    names = {name for (name,) in rows}
    assert "checkpoints" in names
    assert any("turn" in name for name in names)


async def test_sync_and_async_checkpointers_of_one_postgres_share_it(postgres_url: str) -> None:
    with PostgresSaver.from_conn_string(postgres_url) as sync_saver:
        async with AsyncPostgresSaver.from_conn_string(postgres_url) as async_saver:
            ledgers = LedgerResolver(None)
            ledger = await ledgers.resolve(sync_saver)
            assert await ledgers.resolve(async_saver) is ledger
            assert isinstance(ledger, SqlLedger)
            assert "password" not in repr(ledger)


async def run_on(agent: ScriptedAgent, saver: Any) -> None:
    await saver.setup()
    graph = agent.graph().compile(checkpointer=saver)
    state = await graph.ainvoke(question(), thread())
    assert texts(state) == ["How much?", "Answer to: How much?"]
    ledger = await graph.parts.ledgers.resolve(saver)
    turn = await latest_turn(graph)
    assert turn.ended_at is not None
    await ledger.aclose()
