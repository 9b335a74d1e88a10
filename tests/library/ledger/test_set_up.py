"""Where a ledger is kept: URLs, drivers, versions, and what never shows."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL

from databricks_supervisor.errors import ConfigurationError, LedgerError, LedgerVersionError
from databricks_supervisor.ledger import SqlLedger, schema
from tests.support.ledgers import KEY, new_turn

SECRET = "s3cret-passw0rd"


@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite", "sqlite+pysqlite"])
async def test_a_sqlite_file_and_its_folder_are_made(tmp_path: Path, driver: str) -> None:
    ledger = SqlLedger(f"{driver}:///{tmp_path}/a/b/ledger.db")
    assert not (tmp_path / "a").exists()
    await ledger.open_turn(new_turn())
    assert (tmp_path / "a/b/ledger.db").exists()
    await ledger.aclose()


async def test_a_relative_sqlite_file_stays_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    ledger = SqlLedger(URL.create("sqlite", database="ledger.db"))
    await ledger.open_turn(new_turn("turn"))
    await ledger.aclose()
    monkeypatch.chdir("elsewhere")
    assert await ledger.get_turn("turn") is not None
    await ledger.aclose()


async def test_a_sqlite_ledger_survives_a_power_cut(tmp_path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")

    def pragmas(connection: Any) -> list[Any]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert await ledger._database.run(pragmas) == ["wal", 2, 1, 30_000]
    await ledger.aclose()


@pytest.mark.parametrize("driver", ["postgresql", "postgres", "postgresql+psycopg"])
async def test_postgres_goes_by_several_names(postgres_url: str, driver: str) -> None:
    ledger = SqlLedger(postgres_url.replace("postgresql", driver, 1))
    assert (await ledger.open_turn(new_turn()))[1]
    await ledger.aclose()


async def test_a_ledger_shares_the_postgres_of_a_saver(postgres_url: str) -> None:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row

    ledger = SqlLedger.from_psycopg(postgres_url, autocommit=True, prepare_threshold=0, row_factory=dict_row)
    async with AsyncPostgresSaver.from_conn_string(postgres_url) as saver:
        await saver.setup()
        await ledger.open_turn(new_turn("turn"))
    assert (await ledger.claim(KEY, "w")).mine
    await ledger.aclose()


async def test_parameters_of_psycopg_are_passed_on(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA apart")
    ledger = SqlLedger.from_psycopg(postgres_url, options="-c search_path=apart")
    await ledger.open_turn(new_turn("turn"))
    await ledger.aclose()
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute(
            "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'supervisor_%'"
        )
        assert found.fetchall() == [("apart",)]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        f"postgresql://user:{SECRET}@host:port/database",
        f"nonsense:{SECRET}",
        f"mysql://user:{SECRET}@host/database",
        f"postgresql+asyncpg://user:{SECRET}@host/database",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:ledger.db?uri=true",
        "sqlite:///ledger.db?timeout=3",
    ],
)
def test_a_url_that_cannot_work_is_refused_with_what_can(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sqlite:///path/to/ledger\.db") as caught:
        SqlLedger(url)
    assert SECRET not in everything_shown(caught.value)


@pytest.mark.parametrize("conninfo", [SECRET, f"host=h password={SECRET} nonsense", f"password='{SECRET}"])
def test_a_connection_string_that_cannot_work_is_refused(conninfo: str) -> None:
    with pytest.raises(ConfigurationError, match="host=") as caught:
        SqlLedger.from_psycopg(conninfo)
    assert SECRET not in everything_shown(caught.value)


@pytest.mark.parametrize("from_url", [True, False])
def test_without_psycopg_the_error_says_what_to_install(from_url: bool) -> None:
    make = "SqlLedger" if from_url else "SqlLedger.from_psycopg"
    script = f"""
import sys
import tests.support.light_ledger_import
sys.modules["psycopg"] = None
from databricks_supervisor.ledger import SqlLedger
from databricks_supervisor.errors import ConfigurationError
SqlLedger("sqlite:///ledger.db")
try:
    {make}("postgresql://host/database")
except ConfigurationError as error:
    assert "databricks-supervisor-langgraph[postgres]" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


def test_the_interface_alone_loads_no_database() -> None:
    script = """
import sys
import tests.support.light_ledger_import
import databricks_supervisor.ledger
assert "sqlalchemy" not in sys.modules
from databricks_supervisor.ledger import MemoryLedger
assert "sqlalchemy" not in sys.modules
from databricks_supervisor.ledger import SqlLedger
SqlLedger("sqlite:///ledger.db")
assert "psycopg" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize(
    "ledger",
    [
        SqlLedger(f"postgresql://user:{SECRET}@127.0.0.1:9/database?connect_timeout=2"),
        SqlLedger(f"postgresql://127.0.0.1:9/database?user=user&password={SECRET}"),
        SqlLedger.from_psycopg(f"postgresql://user:{SECRET}@127.0.0.1:9/database"),
        SqlLedger.from_psycopg(f"host=127.0.0.1 port=9 dbname=database password={SECRET}"),
        SqlLedger.from_psycopg("host=127.0.0.1 port=9 dbname=database", password=SECRET),
    ],
)
async def test_a_password_shows_nowhere(ledger: SqlLedger) -> None:
    assert SECRET not in repr(ledger)
    assert "127.0.0.1" in repr(ledger)
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1.*did not do its work") as caught:
        await ledger.get_turn("turn")
    assert SECRET not in everything_shown(caught.value)


async def test_what_an_effect_holds_does_not_show_in_an_error(tmp_path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    await ledger.open_turn(new_turn("turn"))
    await ledger.claim(KEY, "w")
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("DROP TABLE supervisor_effects")
    with pytest.raises(LedgerError, match="no such table") as caught:
        await ledger.record(KEY, 1, {"text": SECRET})
    assert SECRET not in everything_shown(caught.value)
    await ledger.aclose()


async def test_a_folder_that_cannot_be_made_is_an_error_of_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="did not do its work"):
        await SqlLedger(f"sqlite:///{tmp_path}/file/ledger.db").get_turn("turn")


async def test_a_ledger_waits_for_another_writer_of_its_file(tmp_path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    await ledger.open_turn(new_turn("turn"))
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    claiming = asyncio.create_task(ledger.claim(KEY, "w"))
    done, _ = await asyncio.wait([claiming], timeout=0.1)
    assert not done
    other.execute("COMMIT")
    other.close()
    assert (await claiming).mine
    await ledger.aclose()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_tables_of_a_newer_release_are_left_alone(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if kind == "postgres" else f"sqlite:///{tmp_path}/ledger.db"
    first = SqlLedger(url)
    await first.open_turn(new_turn("turn"))
    newer = schema.ledger_version.update().values(version=schema.SCHEMA_VERSION + 1)
    await first._database.run(lambda connection: connection.execute(newer).rowcount)
    await first.aclose()
    for _ in range(2):
        with pytest.raises(LedgerVersionError, match=r"version 4; .* version 3\. .* Upgrade"):
            await first.get_turn("turn")


async def test_tables_of_an_older_release_are_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    await SqlLedger(url).open_turn(new_turn("turn"))
    add = "ALTER TABLE supervisor_turns ADD COLUMN more TEXT"
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 5)
    monkeypatch.setattr(
        schema,
        "MIGRATIONS",
        {3: lambda connection: connection.exec_driver_sql(add), 4: lambda connection: None},
    )
    for _ in range(2):
        ledger = SqlLedger(url)
        assert await ledger.get_turn("turn") is not None
        await ledger.aclose()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("SELECT version FROM supervisor_ledger_version").fetchall() == [(5,)]
        assert connection.execute("SELECT more FROM supervisor_turns").fetchall() == [(None,)]


async def test_tables_of_version_1_get_the_indexes_and_their_turns_a_number_each(tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "ledger.db"
    await SqlLedger(url).open_turn(new_turn("turn"))
    with sqlite3.connect(file) as connection:
        connection.execute("DROP INDEX supervisor_effects_by_id")
        connection.execute("DROP INDEX supervisor_turns_in_order")
        connection.execute("CREATE INDEX supervisor_turns_latest ON supervisor_turns (thread, position, seq)")
        connection.executemany(
            "INSERT INTO supervisor_turns (turn_id, thread, position, seq, digest, message_ids, opened_at, ended_at)"
            " VALUES (?, 'thread', '', ?, 'digest', '[]', ?, 9)",
            [("second", 1, 1e11), ("third", 1, 2e11), ("fourth", 3, 3e11)],
        )
        connection.execute("UPDATE supervisor_ledger_version SET version = 1")
    ledger = SqlLedger(url)
    await ledger.claim(KEY, "w")
    assert [turn.turn_id for turn in await ledger.turns_with_effect(KEY.kind, KEY.id)] == ["turn"]
    await ledger.aclose()
    with sqlite3.connect(file) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")
        ]
        assert {"supervisor_effects_by_id", "supervisor_turns_in_order"} <= set(names)
        assert "supervisor_turns_latest" not in names
        numbered = connection.execute("SELECT turn_id, seq FROM supervisor_turns ORDER BY seq").fetchall()
        assert numbered == [("turn", 1), ("second", 2), ("third", 3), ("fourth", 4)]
        assert connection.execute("SELECT version FROM supervisor_ledger_version").fetchall() == [(3,)]


async def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    await SqlLedger(url).open_turn(new_turn("turn"))

    def fail(connection: Any) -> None:
        connection.exec_driver_sql("DROP TABLE supervisor_effects")
        connection.exec_driver_sql("nonsense")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMA_VERSION", 4)
        patch.setattr(schema, "MIGRATIONS", {3: fail})
        with pytest.raises(LedgerError, match="nonsense"):
            await SqlLedger(url).get_turn("turn")
    assert (await SqlLedger(url).claim(KEY, "w")).mine


def everything_shown(error: BaseException) -> str:
    """The error with all that a log would show of it."""
    return "".join(traceback.format_exception(error)) + repr(error)
