"""Fixtures of every part."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.postgres import PostgresServer

# Helpers that assert; pytest does this for conftest and test modules alone.
pytest.register_assert_rewrite("tests.e2e", "tests.replicas", "tests.clients", "tests.support.simulation")


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """A file at a time to each worker; the files of tests/replicas, which share running servers, to one."""

    def _split_scope(self, nodeid: str) -> str:
        folder = "tests/replicas/"
        return folder if nodeid.startswith(folder) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _ByFile(config, log)


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
