"""Fixtures of every part."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.postgres import PostgresServer

pytest.register_assert_rewrite("tests.e2e.forks", "tests.e2e.stories")


OWN_PROCESSES = ("test_approvals", "test_fan_out", "test_studio", "test_wheel")


class _ByServers(LoadScopeScheduling):  # type: ignore[misc]
    """A file at a time to each worker; and what shares processes that take long to start, to one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder, _, name = file.rpartition("/")
        shares = folder == "tests/replicas" or (folder == "tests/e2e" and not name.startswith(OWN_PROCESSES))
        return folder if shares else file


LONGEST = (
    "tests/replicas/",
    "tests/e2e/",
    "tests/library/test_machine.py",
    "tests/agent_server/test_",
    "tests/guides/",
    "tests/clients/",
)
"""These begin first, so that no worker is left with a long one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((n for n, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST))

    items.sort(key=rank)


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
