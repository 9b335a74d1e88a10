"""Fixtures of every part."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import PostgresServer

pytest.register_assert_rewrite("tests.e2e.forks", "tests.e2e.stories")


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
