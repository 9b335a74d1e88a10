"""Fixtures of the tests with real processes."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from langgraph.checkpoint.postgres import PostgresSaver

from tests.e2e.forked_processes import ForkServer
from tests.e2e.scenario import Scenario, Store
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.postgres import PostgresServer

SEED = os.environ.get("E2E_SEED") or str(random.SystemRandom().randrange(10**6))
"""Chooses samples and moments; the same seed gives the same ones."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how to run the same sample again."""
    terminalreporter.write_line(f"tests/e2e: E2E_SEED={SEED}")


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Starts processes that have everything imported."""
    with ForkServer(tmp_path_factory.mktemp("fork-server") / "stderr.txt") as server:
        yield server


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSupervisor]:
    """The stand-in of the service, the same one for all: every test asks questions of its own."""
    with LocalSupervisor(tmp_path_factory.mktemp("service")) as local:
        yield local


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: PostgresServer) -> Iterator[Store]:
    """One database for all: every test has threads of its own."""
    with postgres_server.database() as url:
        with PostgresSaver.from_conn_string(url) as saver:
            saver.setup()
        yield Store("postgres", url)


@pytest.fixture
def new_scenario(
    fork_server: ForkServer, service: LocalSupervisor, shared_postgres: Store, tmp_path: Path
) -> Callable[..., Scenario]:
    """Makes a scenario that is kept in a SQLite file of its own, or in the shared database."""

    def make(store: str = "sqlite", durability: str = "sync") -> Scenario:
        scenario = Scenario(fork_server, service, shared_postgres, durability)
        if store == "sqlite":
            scenario.store = Store("sqlite", str(tmp_path / f"{scenario.thread}.sqlite"))
        return scenario

    return make


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a process behind."""
    keep = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    if "fork_server" in request.fixturenames:
        fork_server: ForkServer = request.getfixturevalue("fork_server")
        assert fork_server.leftovers() == [], "the test left children of the fork server behind"
        keep.add(fork_server.pid)
    if "service" in request.fixturenames:
        keep.add(request.getfixturevalue("service").pid)
    left = [
        child
        for child in psutil.Process().children(recursive=True)
        if child.pid not in keep and "postgres" not in child.name()
    ]
    for child in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(left, timeout=10)
    assert left == [], "the test left processes behind"
