"""Fixtures of the app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.processes import Warm


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Starts `ask` quickly."""
    started = Warm()
    yield started
    started.close()


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSupervisor]:
    """One service for all tests of this folder."""
    with LocalSupervisor(tmp_path_factory.mktemp("service"), {"duration_s": 0.3}) as running:
        yield running


@pytest.fixture
def service(shared_service: LocalSupervisor) -> LocalSupervisor:
    """The service, with nothing submitted yet."""
    shared_service.reset()
    return shared_service


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty working directory."""
    made = tmp_path / "here"
    made.mkdir()
    return made
