"""One server and its service, as processes, for all clients; no test asks what another one asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import node_packages
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.server_process import ServerProcess


@pytest.fixture(scope="session")
def node() -> None:
    """Node, with the chat client's packages."""
    node_packages.install()


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes keep what they keep."""
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="session")
def service(directory: Path) -> Iterator[LocalSupervisor]:
    """The stand-in of the remote service."""
    with LocalSupervisor(directory / "service", {"duration_s": 0.1}) as running:
        yield running


@pytest.fixture(scope="session")
def server(directory: Path, service: LocalSupervisor) -> Iterator[ServerProcess]:
    """The agent server."""
    with ServerProcess(
        directory / "server", service=service.url, env={"SUPERVISOR_POLL_INTERVAL": "0.05"}
    ) as running:
        yield running
