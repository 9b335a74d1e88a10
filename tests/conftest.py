"""Fixtures of every part."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.postgres import PostgresServer

pytest.register_assert_rewrite("tests.e2e.forked_processes", "tests.e2e.scenario")


class _ByServers(LoadScopeScheduling):  # type: ignore[misc]
    """A file at a time to each worker; and what shares running servers, to one."""

    def _split_scope(self, nodeid: str) -> str:
        folder = "tests/replicas/"
        return folder if nodeid.startswith(folder) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _ByServers(config, log)


def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: these tests wait for processes much of their time."""
    return 2 * (os.cpu_count() or 1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One Postgres for the whole run."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a fresh database in it."""
    with postgres_server.database() as url:
        yield url
