"""Which service answers: what the environment and the Databricks configuration file say."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_server.backend.backend import Backend
from agent_server.backend.backend import find_backend as find
from agent_server.errors import NotReachableError, UsageError
from agent_server.settings import AppSettings


@pytest.fixture(autouse=True)
def _no_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("DATABRICKS_", "SUPERVISOR_", "OPENAI_")) or name.lower() in (
            "https_proxy",
            "all_proxy",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "cfg"))


def find_backend(**settings: object) -> Backend:
    return find(AppSettings(_env_file=None, **settings))  # type: ignore[arg-type]


@pytest.fixture
def host() -> Iterator[str]:
    """A host that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_none_is_configured() -> None:
    assert find_backend().local
    with pytest.raises(UsageError, match="DATABRICKS_HOST"):
        find_backend(local=False)


def test_a_host_in_the_environment(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", host)
    assert find_backend().host == host
    assert find_backend(local=True).local


def test_profiles_of_the_configuration_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    (tmp_path / "cfg").write_text(f"[DEFAULT]\nhost = {host}\n[other]\nhost = {host}/\n[empty]\n")
    assert find_backend().host == host
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "other")
    assert find_backend().host == f"{host}/"
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "missing")
    with pytest.raises(UsageError, match="missing"):
        find_backend()


def test_a_configuration_file_without_a_default(tmp_path: Path, host: str) -> None:
    (tmp_path / "cfg").write_text(f"[other]\nhost = {host}\n")
    assert find_backend().local
    (tmp_path / "cfg").write_text(f"[__settings__]\ndefault_profile = other\n[other]\nhost = {host}\n")
    assert find_backend().host == host


def test_a_configuration_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "cfg").write_bytes(b"\xff\xfe nonsense")
    with pytest.raises(UsageError, match="cannot be read"):
        find_backend()


@pytest.mark.parametrize("wrong", ["not a host", "ftp://host", "https://", "http://host:port"])
def test_no_host(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", wrong)
    with pytest.raises(UsageError, match="not the address of a workspace"):
        find_backend()


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DATABRICKS_HOST", f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(NotReachableError, match="Nothing was submitted"):
            find_backend()


def test_somebody_else_listens(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr("agent_server.backend.hosts.REACHABLE_WITHIN_S", 0.2)
    monkeypatch.setenv("DATABRICKS_HOST", host.replace("http:", "https:"))
    with pytest.raises(NotReachableError, match="Nothing was submitted"):
        find_backend()


def test_behind_a_proxy_nothing_is_concluded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("DATABRICKS_HOST", "https://only-the-proxy-knows.example")
    assert find_backend().host == "https://only-the-proxy-knows.example"
