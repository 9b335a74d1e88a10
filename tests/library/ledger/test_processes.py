"""The ledger between processes: races, set-up, forks, kills, and who is known to be dead."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from databricks_supervisor.ledger import EffectKey, SqlLedger
from databricks_supervisor.ledger.worker import is_dead, this_worker
from tests.support.ledgers import KEY, new_turn
from tests.support.postgres import PostgresServer

ROOT = Path(__file__).parents[3]


class Process:
    """A process that waits for :meth:`go`."""

    def __init__(self, task: str, *urls: str) -> None:
        # A forked child drops the connections that it inherited, on purpose, and psycopg warns of that.
        warn = "ignore" if task == "fork" else "always"
        self.popen = subprocess.Popen(
            [
                sys.executable,
                "-W",
                f"{warn}::ResourceWarning",
                "-m",
                "tests.support.ledger_process",
                task,
                *urls,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ready(self) -> None:
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == "ready\n", self.popen.communicate()[1]

    def go(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()

    def answer(self) -> Any:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> tuple[int, str]:
        _, noise = self.popen.communicate(timeout=60)
        return self.popen.returncode, noise


@contextmanager
def processes(number: int, task: str, *urls: str) -> Iterator[list[Process]]:
    started = [Process(task, *urls) for _ in range(number)]
    try:
        for process in started:
            process.ready()
        for process in started:
            process.go()
        yield started
    finally:
        for process in started:
            process.popen.kill()
            process.popen.communicate()


@pytest.fixture(params=["sqlite", "postgres"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Three empty databases."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield [f"sqlite:///{tmp_path}/{number}/ledger.db" for number in range(3)]
        else:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            yield [stack.enter_context(server.database()) for _ in range(3)]


@pytest.fixture
def url(urls: list[str]) -> str:
    return urls[0]


def test_four_processes_set_up_an_empty_database_at_the_same_time(urls: list[str]) -> None:
    with processes(4, "set_up", *urls) as started:
        answers = [process.answer() for process in started]
        ends = [process.end() for process in started]
    assert [end[0] for end in ends] == [0] * 4, ends
    for opened in zip(*answers, strict=True):
        assert sum(opened) == 1


def test_four_processes_claim_each_key_once_in_total(url: str) -> None:
    asyncio.run(SqlLedger(url).open_turn(new_turn("turn")))
    with processes(4, "claim", url) as started:
        answers = [process.answer() for process in started]
        ends = [process.end() for process in started]
    assert [end[0] for end in ends] == [0] * 4, ends
    claimed = [key for answer in answers for key in answer]
    assert sorted(claimed) == sorted(str(number) for number in range(50))
    effects = asyncio.run(SqlLedger(url).effects("turn"))
    assert len(effects) == 50
    assert all(effect.outcome == {"by": effect.worker} for effect in effects)


def test_loops_that_come_and_go_leave_nothing_behind(url: str) -> None:
    with processes(1, "loops", url) as [process]:
        assert process.answer() == [1, 1, 1]
        assert process.end() == (0, "")


def test_what_was_recorded_survives_the_kill_of_the_process(url: str) -> None:
    with processes(1, "claim_and_die", url) as [process]:
        assert process.answer() is None
        assert process.end()[0] == -signal.SIGKILL
    effect = asyncio.run(SqlLedger(url).get_effect(KEY))
    assert effect is not None
    assert effect.outcome == {"response_id": "resp"}
    assert is_dead(effect.worker)


def test_a_ledger_works_on_both_sides_of_a_fork(url: str) -> None:
    with processes(1, "fork", url) as [process]:
        answer = process.answer()
        assert process.end() == (0, "")
    assert answer["status"] == 0
    assert answer["child"] != answer["parent"]
    assert (answer["parent is dead"], answer["child is dead"]) == (False, True)


# ---- workers


def test_a_worker_is_dead_once_its_process_is_gone() -> None:
    with processes(1, "wait") as [process]:
        worker = process.answer()
        assert worker != this_worker()
        assert not is_dead(worker)
        process.popen.kill()
        os.waitid(os.P_PID, process.popen.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert is_dead(worker)
        process.popen.wait()
        assert is_dead(worker)


def test_a_worker_is_dead_if_its_pid_is_another_process_now() -> None:
    host, pid, start = this_worker().split("/")
    assert not is_dead(this_worker())
    assert is_dead(f"{host}/{pid}/{start}1")


@pytest.mark.parametrize(
    "worker",
    [
        *("", "/", "//", "garbage", "{host}", "{host}/", "{host}/1", "{host}/{pid}/"),
        *("{host}/x/1", "{host}/-1/1", "{host}/0/1", "{host}/²/1", "{host}/99999999999999999999999/1"),
        *("other/{pid}/1", "other-{host}/{pid}/1"),
    ],
)
def test_a_worker_that_cannot_be_told_is_not_known_to_be_dead(worker: str) -> None:
    host, pid, _ = this_worker().split("/")
    assert not is_dead(worker.format(host=host, pid=pid))


# ---- connections


async def test_a_ledger_keeps_few_connections_whatever_is_asked_at_once(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    ledger = SqlLedger(postgres_url)
    await ledger.open_turn(new_turn("turn"))
    keys = [EffectKey("turn", 0, "tool", str(number)) for number in range(100)]
    await asyncio.gather(*(ledger.claim(key, "w") for key in keys))
    assert 1 <= postgres_server.connections(postgres_url) <= 5
    await ledger.aclose()
    postgres_server.wait_unused(postgres_url)


async def test_a_ledger_goes_on_after_the_server_cut_its_connections(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    ledger = SqlLedger(postgres_url)
    await ledger.open_turn(new_turn("turn"))
    assert postgres_server.drop_connections(postgres_url) >= 1
    assert (await ledger.claim(KEY, "w")).mine
    await ledger.aclose()
