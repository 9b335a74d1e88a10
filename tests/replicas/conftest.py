"""Fixtures: three servers on one Postgres in front of one service, for all tests of this folder."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from tests.replicas.concurrency import at_once
from tests.replicas.database import Database
from tests.replicas.responses_client import ResponsesClient
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.postgres import PostgresServer
from tests.support.server_process import ServerProcess

SEED = os.environ.get("E2E_SEED") or str(random.SystemRandom().randrange(10**6))
"""Chooses samples and moments; the same seed gives the same ones."""

REPLICAS = 3
NewClient = Callable[..., ResponsesClient]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how to run the same sample again."""
    terminalreporter.write_line(f"tests/replicas: E2E_SEED={SEED}")


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSupervisor]:
    """The stand-in of the service, the same one for all: every test asks questions of its own."""
    with LocalSupervisor(tmp_path_factory.mktemp("service"), {"duration_s": 0.1}) as local:
        yield local


@pytest.fixture(scope="package")
def shared_url(postgres_server: PostgresServer) -> Iterator[str]:
    """One database for all: every test has threads of its own."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="package")
def database(shared_url: str) -> Database:
    """The same database, to look into."""
    return Database(shared_url)


@pytest.fixture(scope="package")
def replicas(
    service: LocalSupervisor, shared_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[ServerProcess]]:
    """Three servers on one database. Whoever kills one starts it again."""
    folder = tmp_path_factory.mktemp("replicas")
    with ExitStack() as stack:
        servers = []
        for number in range(REPLICAS):
            server = ServerProcess(folder / f"{number}", service=service.url, state_url=shared_url)
            stack.callback(server.kill)
            server.launch()
            servers.append(server)
        for server in servers:
            server.wait_healthy()
        at_once([partial(_warm, server) for server in servers])
        yield servers


def _warm(server: ServerProcess) -> None:
    """Ask something: what is heavy is loaded before the first answer."""
    client = ResponsesClient(server.url)
    client.ask({"input": "Warm up."})
    client.close()


@pytest.fixture
def new_client() -> Iterator[NewClient]:
    """Makes a client of a server, as a caller with the given headers."""
    with ExitStack() as stack:

        def make(server: ServerProcess, **headers: str) -> ResponsesClient:
            client = ResponsesClient(
                server.url, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            stack.callback(client.close)
            return client

        yield make
