"""The services as processes, each started by the first test that needs it; and what was not run, in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.support.service_environments import NoPython, Server, python_of
from tests.support.service_processes import ServerProcess, answers, free_port, start_program
from tests.support.service_proxy import Proxy
from tests.support.service_runner import Runs
from tests.support.service_stories import Service, Story

pytest.register_assert_rewrite("tests.services.durability", "tests.services.purchases")

AGENTSERVER = Server("agentserver", oldest=(3, 11))
OGX = Server("ogx", oldest=(3, 12))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was not run, and why."""
    reasons = {
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if report.nodeid.startswith("tests/services/") and isinstance(report.longrepr, tuple)
    }
    for reason in sorted(reasons):
        terminalreporter.write_line(f"tests/services: {reason}")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all services leave their traces."""
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="session")
def tools_url(folder: Path) -> Iterator[str]:
    """The MCP server."""
    process, address = start_program("tools", folder)
    yield f"{address}/mcp"
    process.kill()


@pytest.fixture(scope="session")
def agentserver(folder: Path, tools_url: str) -> Iterator[Service]:
    """An agent on Azure's agent server."""
    python, port = _python_of(AGENTSERVER), free_port()
    state = {"AGENTSERVER_STATE_ROOT": str(folder / "agentserver"), "OTEL_SDK_DISABLED": "true"}
    program = Path(__file__).parent / "programs" / "agentserver.py"
    process = ServerProcess([python, program, folder, str(port)], folder / "agentserver.log", state)
    process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/readiness"))
    yield Service(f"http://127.0.0.1:{port}", folder, tools_url)
    process.kill()


@pytest.fixture(scope="session")
def ogx(folder: Path, tools_url: str) -> Iterator[Service]:
    """OGX, with a model that follows the question to the letter."""
    python, port = _python_of(OGX), free_port()
    model, model_url = start_program("model", folder)
    config = folder / "ogx.yaml"
    config.write_text(yaml.safe_dump(ogx_config(folder / "ogx", f"{model_url}/v1", port)))
    process = ServerProcess(
        [python.parent / "ogx", "run", config, "--insecure", "--port", str(port)],
        folder / "ogx.log",
        {"OTEL_SDK_DISABLED": "true", "HOME": str(folder / "ogx")},
    )
    base_url = f"http://127.0.0.1:{port}/v1"
    process.wait_until(lambda: answers(f"{base_url}/health"))

    def jobs(reference: str) -> list[str]:
        answer = httpx.get(f"{base_url}/responses?limit=100&order=desc", timeout=60, trust_env=False)
        found = answer.raise_for_status().json()["data"]
        return [each["id"] for each in reversed(found) if reference in str(each["input"])]

    yield Service(base_url, folder, tools_url, list_jobs=jobs)
    process.kill()
    model.kill()


@pytest.fixture(scope="session")
def approved_runs(folder: Path) -> Iterator[Callable[[str], Service]]:
    """Services by the way in which they report the runs of approved calls."""
    process, address = start_program("approved_runs", folder)
    yield lambda way: Service(f"{address}/{way}/v1", folder)
    process.kill()


@pytest.fixture(scope="session")
def agent_bricks(folder: Path) -> Iterator[Service]:
    """The stand-in of Agent Bricks' durable agent server."""
    process, address = start_program("agent_bricks", folder)
    yield Service(address, folder, creates="/api/invocations")
    process.kill()


@pytest.fixture(scope="session")
def runs() -> Iterator[Runs]:
    """Starts the graph's side."""
    started = Runs()
    yield started
    started.kill_all()


@pytest.fixture
def new_story(runs: Runs, tmp_path: Path) -> Iterator[Callable[..., Story]]:
    """Makes threads of conversation with a service."""
    proxies: list[Proxy] = []
    stories: list[Story] = []

    def make(service: Service, **more: Any) -> Story:
        proxy = Proxy(service.base_url, service.creates)
        proxy.__enter__()
        proxies.append(proxy)
        stories.append(Story(service, proxy, runs, tmp_path, **more))
        return stories[-1]

    yield make
    left = runs.kill_all()
    for story in stories:
        story.open_gate()
    for proxy in proxies:
        proxy.__exit__(None, None, None)
    assert left == 0, "the test left runs behind"


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No service and no run outlives the tests."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [
        child
        for child in psutil.Process().children(recursive=True)
        if child.pid not in before and not _is_helper(child)
    ]
    assert left == [], "processes were left behind"


def ogx_config(folder: Path, model_url: str, port: int) -> dict[str, Any]:
    """OGX with nothing but what Responses with MCP tools need."""
    folder.mkdir()
    sql = {"backend": "sql_default"}
    key_value = {"backend": "kv_default"}
    return {
        "version": 2,
        "distro_name": "tests",
        "apis": ["inference", "responses", "tool_runtime", "files", "vector_io"],
        "providers": {
            "inference": [
                {
                    "provider_id": "up",
                    "provider_type": "remote::openai",
                    "config": {"base_url": model_url, "api_key": "none"},
                }
            ],
            "responses": [
                {
                    "provider_id": "builtin",
                    "provider_type": "inline::builtin",
                    "config": {"persistence": {"responses": {"table_name": "responses", **sql}}},
                }
            ],
            "tool_runtime": [{"provider_id": "mcp", "provider_type": "remote::model-context-protocol"}],
            "files": [
                {
                    "provider_id": "files",
                    "provider_type": "inline::localfs",
                    "config": {
                        "storage_dir": str(folder / "files"),
                        "metadata_store": {"table_name": "files", **sql},
                    },
                }
            ],
            "vector_io": [],
        },
        "storage": {
            "backends": {
                "kv_default": {"type": "kv_sqlite", "db_path": str(folder / "keys.sqlite")},
                "sql_default": {"type": "sql_sqlite", "db_path": str(folder / "store.sqlite")},
            },
            "stores": {
                "metadata": {"namespace": "registry", **key_value},
                "inference": {"table_name": "inference", "enabled": True, **sql},
                "conversations": {"table_name": "conversations", **sql},
                "prompts": {"table_name": "prompts", **sql},
                "connectors": {"table_name": "connectors", **sql},
            },
        },
        "registered_resources": {"models": [], "vector_stores": []},
        "server": {"host": "127.0.0.1", "port": port},
    }


def _python_of(server: Server) -> Path:
    try:
        return python_of(server)
    except NoPython as missing:
        pytest.skip(f"{server.name} was not run: {missing}")


def _is_helper(process: psutil.Process) -> bool:
    """Whether it is multiprocessing's own, which ends with the tests."""
    try:
        command = " ".join(process.cmdline())
        return process.status() == psutil.STATUS_ZOMBIE or "multiprocessing" in command
    except psutil.NoSuchProcess:
        return True
