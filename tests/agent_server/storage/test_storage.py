"""Where state is kept: opened once, survived by a restart of the database, wrong in one line."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databricks_langchain import AsyncCheckpointSaver
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from psycopg.conninfo import conninfo_to_dict

from agent_server.errors import StateError
from agent_server.storage.check import check_state
from agent_server.storage.lakebase import Lakebase
from agent_server.storage.storage import POOL_SIZE, open_ledger, open_storage
from agent_server.storage.url import LakebaseUrl, describe_state, parse_lakebase
from databricks_supervisor.ledger import NewTurn
from databricks_supervisor.ledger.url import POSTGRES_CONNECTIONS
from tests.support.postgres import PostgresServer
from tests.support.recorder import Recorder

ENDPOINT = "projects/agents/branches/main/endpoints/primary"


async def put(saver: BaseCheckpointSaver[Any], thread_id: str) -> None:
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    await saver.aput(config, empty_checkpoint(), {}, {})


async def has(saver: BaseCheckpointSaver[Any], thread_id: str) -> bool:
    return await saver.aget_tuple({"configurable": {"thread_id": thread_id}}) is not None


async def test_state_outlives_the_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/folder/state.sqlite"
    check_state(url)
    async with open_storage(url) as storage:
        await put(storage.saver, "t1")
        await storage.ledger.open_turn(NewTurn("turn-1", "t1", "", None, "digest"))
    async with open_storage(url) as storage:
        assert await has(storage.saver, "t1")
        assert await open_ledger(url).get_turn("turn-1") is not None


async def test_a_restart_of_postgres_costs_a_wait_and_nothing_else(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with open_storage(postgres_url) as storage:
        await asyncio.gather(*(put(storage.saver, f"before-{number}") for number in range(20)))
        assert postgres_server.drop_connections(postgres_url) > 1
        await asyncio.gather(*(put(storage.saver, f"after-{number}") for number in range(20)))
        assert await has(storage.saver, "before-0")
        assert await has(storage.saver, "after-19")
        await storage.ledger.open_turn(NewTurn("turn-1", "t1", "", None, "digest"))


async def test_what_was_under_way_when_postgres_went_is_done_all_the_same(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with open_storage(postgres_url) as storage:
        cut = False

        async def run(name: str) -> int:
            done = 0
            while not cut or done < 20:
                await put(storage.saver, f"{name}-{done}")
                done += 1
            return done

        runs = asyncio.gather(*(run(f"r{number}") for number in range(POOL_SIZE)))
        await asyncio.sleep(0.1)  # Until the pool has grown.
        assert await asyncio.to_thread(postgres_server.drop_connections, postgres_url) > 1
        cut = True
        done = await runs
        assert all([await has(storage.saver, f"r{n}-{last - 1}") for n, last in enumerate(done)])


async def test_an_error_of_another_kind_is_not_repeated(postgres_url: str) -> None:
    async with open_storage(postgres_url) as storage:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DROP TABLE checkpoints")
        with pytest.raises(psycopg.errors.UndefinedTable):
            await put(storage.saver, "t1")


async def test_many_runs_share_a_few_connections(postgres_server: PostgresServer, postgres_url: str) -> None:
    most = 0
    async with open_storage(postgres_url) as storage:

        async def watch() -> None:
            nonlocal most
            most = max(most, await asyncio.to_thread(postgres_server.connections, postgres_url))

        await asyncio.gather(*(put(storage.saver, f"t{number}") for number in range(300)), watch(), watch())
        await watch()
        assert all([await has(storage.saver, f"t{number}") for number in (0, 150, 299)])
    assert 2 <= most <= POOL_SIZE + POSTGRES_CONNECTIONS  # the ledger has its own


async def test_processes_that_start_at_once_make_the_tables_once(postgres_url: str) -> None:
    async def start(number: int) -> None:
        async with open_storage(postgres_url) as storage:
            await put(storage.saver, f"t{number}")

    await asyncio.gather(*(start(number) for number in range(5)))
    async with open_storage(postgres_url) as storage:
        assert all([await has(storage.saver, f"t{number}") for number in range(5)])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://app:hunter2@127.0.0.1:9/db", "cannot be opened: "),
        ("postgresql://app:hunter2@127.0.0.1/db?nonsense=1", "not a URL"),
        ("sqlite:////proc/state/state.sqlite", "/proc/state/state.sqlite cannot be made: "),
        ("sqlite:///folder", "folder cannot be opened: unable to open"),
        ("sqlite:///text", "text cannot be opened: file is not a database"),
    ],
)
async def test_a_database_that_cannot_be_opened_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, why: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("This is not a database, but a text of some length.\n" * 40)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StateError, match=why) as checked:
        check_state(url)
    with pytest.raises(StateError) as opened:
        async with open_storage(url):
            pass
    for said in (str(checked.value), str(opened.value)):
        assert said.startswith("SUPERVISOR_STATE_URL: ")
        assert "\n" not in said
        assert "hunter2" not in said


def test_a_database_that_is_being_written_can_be_opened(tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "state.sqlite", isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    check_state(f"sqlite:///{tmp_path}/state.sqlite")
    writer.close()


def test_a_user_who_may_make_no_tables_is_told_so(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        guest = postgres_url.replace("postgresql://postgres", "postgresql://guest", 1)

        async def start() -> None:
            async with open_storage(guest):
                pass

        with pytest.raises(StateError, match="permission denied for schema public"):
            asyncio.run(start())
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DROP ROLE guest")


def test_where_it_is_is_told_without_a_password() -> None:
    assert describe_state("sqlite:///.supervisor/state.sqlite") == ".supervisor/state.sqlite"
    assert describe_state("postgresql+psycopg://app:hunter2@db:5432/agents?password=hunter2") == (
        "Postgres db:5432/agents"
    )
    assert describe_state(f"lakebase://{ENDPOINT}") == f"Lakebase {ENDPOINT}"


def test_lakebase_is_named_by_instance_or_endpoint() -> None:
    assert parse_lakebase("lakebase://agents") == LakebaseUrl("agents", None)
    assert parse_lakebase(f"lakebase://{ENDPOINT}?schema=jobs") == LakebaseUrl(None, ENDPOINT, "jobs")


@pytest.mark.parametrize(
    "wrong",
    ["", "a/b", "projects/p", "projects/p/branches/b", "agents?schema=", "agents?x=1", "user:hunter2@agents"],
)
def test_what_names_no_lakebase(wrong: str) -> None:
    with pytest.raises(ValueError, match="lakebase://") as raised:
        parse_lakebase(f"lakebase://{wrong}")
    assert "hunter2" not in str(raised.value)


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> Iterator[Recorder]:
    """A workspace whose Lakebase is the local Postgres."""
    for name in os.environ:
        if name.startswith("DATABRICKS_"):
            monkeypatch.delenv(name)
    known = conninfo_to_dict(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE databricks_postgres")
    with Recorder({}) as running:
        running.answers |= {
            "/api/2.0/database/instances/agents": {"name": "agents", "read_write_dns": known["host"]},
            f"/api/2.0/postgres/{ENDPOINT}": {
                "name": ENDPOINT,
                "status": {"hosts": {"host": known["host"]}},
            },
            "/api/2.0/preview/scim/v2/Me": {"userName": known["user"]},
            "/api/2.0/database/credentials": {"token": "token-of-the-instance"},
            "/api/2.0/postgres/credentials": {"token": "token-of-the-endpoint"},
        }
        monkeypatch.setenv("DATABRICKS_HOST", running.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "token-of-the-process")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP DATABASE databricks_postgres WITH (FORCE)")


@pytest.mark.parametrize(
    ("name", "credentials"),
    [
        ("agents", "/api/2.0/database/credentials"),
        (f"{ENDPOINT}?schema=the-jobs", "/api/2.0/postgres/credentials"),
    ],
)
async def test_lakebase_keeps_checkpoints_and_ledger_and_every_connection_gets_a_token(
    workspace: Recorder, postgres_url: str, name: str, credentials: str
) -> None:
    url = f"lakebase://{name}"
    check_state(url)
    async with open_storage(url) as storage:
        assert isinstance(storage.saver.inner, AsyncCheckpointSaver)
        await put(storage.saver, "t1")
        await storage.ledger.open_turn(NewTurn("turn-1", "t1", "", None, "digest"))
        assert "token" not in repr(storage)
    assert await open_ledger(url).get_turn("turn-1") is not None
    asked = workspace.of(credentials)
    assert len(asked) >= 4  # the check, the set-up, the pool, the ledger
    assert {each.authorization for each in asked} == {"Bearer token-of-the-process"}
    lakebase = Lakebase.find(parse_lakebase(url))
    assert lakebase.password().startswith("token-of-the-")
    with psycopg.connect(postgres_url, dbname="databricks_postgres") as connection:
        found = connection.execute(
            "SELECT table_schema FROM information_schema.tables WHERE table_name IN ('checkpoints', %s)",
            ("supervisor_turns",),
        ).fetchall()
    assert {row[0] for row in found} == {parse_lakebase(url).schema or "public"}


async def test_a_lakebase_that_does_not_exist_is_said_in_one_line(workspace: Recorder) -> None:
    for check in (check_state, open_ledger):
        with pytest.raises(
            StateError, match=r"^SUPERVISOR_STATE_URL: Lakebase other cannot be opened: "
        ) as said:
            check("lakebase://other")
        assert "\n" not in str(said.value)
        assert "token-of" not in str(said.value)
