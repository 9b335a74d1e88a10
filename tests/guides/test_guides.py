"""Every example of the guides and of the README runs exactly as it is written."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import databricks_supervisor
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.server_process import ServerProcess
from tests.support.studio_process import Studio, environment

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
PAGES_WITHOUT_EXAMPLES = {
    "docs/architecture.md",
    "docs/langgraph.md",
    "docs/services.md",
    "docs/wire.md",
}
BEST = "had the highest revenue"

Run = Callable[..., str]


def examples(guide: str) -> list[str]:
    """The Python blocks of a guide."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / guide).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSupervisor]:
    """The service that answers the examples."""
    with LocalSupervisor(tmp_path_factory.mktemp("service"), {"duration_s": 0.3}) as running:
        yield running


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process that has imported the SDKs, and forks a child for each example."""
    log = tmp_path_factory.mktemp("warm") / "log.txt"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_guides"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        yield process
        process.communicate()


@pytest.fixture
def run(warm: subprocess.Popen[str], service: LocalSupervisor, tmp_path: Path) -> Run:
    """Runs a guide's one example as a script in an empty directory; gives what it printed."""
    service.reset()

    def run_example(guide: str, **env: str) -> str:
        [code] = examples(guide)
        file, stdout, stderr = (tmp_path / name for name in ("example.py", "stdout.txt", "stderr.txt"))
        file.write_text(code)
        here = tmp_path / "here"
        here.mkdir()
        spec = {
            "file": str(file),
            "cwd": str(here),
            "stdout": str(stdout),
            "stderr": str(stderr),
            "env": environment(service.url, DATABRICKS_TOKEN="test") | env,
        }
        assert warm.stdin is not None
        assert warm.stdout is not None
        warm.stdin.write(json.dumps(spec) + "\n")
        warm.stdin.flush()
        exit_code = int(warm.stdout.readline())
        assert (exit_code, "Traceback" in stderr.read_text()) == (0, False), stderr.read_text()
        return stdout.read_text()

    return run_example


def test_the_readme(run: Run, service: LocalSupervisor) -> None:
    assert BEST in run("README.md")
    assert service.submissions()["count"] == 1


def test_a_node(run: Run, service: LocalSupervisor) -> None:
    lines = run("docs/node.md").splitlines()
    assert lines[0] == "Hello! Ask me about sales."
    assert BEST in lines[1]
    assert any(line.startswith("Review:") for line in lines)
    assert service.submissions()["count"] == 2  # sales, review


def test_a_fan_out(run: Run, service: LocalSupervisor) -> None:
    printed = run("docs/fan-out.md")
    assert printed.count("May it?") == 3
    assert printed.count("I ran `publish_report`, as you approved.") == 3
    assert service.submissions()["count"] == 6  # three questions, three follow-ups


def test_a_tool(run: Run, service: LocalSupervisor) -> None:
    printed = run("docs/tool.md")
    assert printed.count("May it? publish_report") == 1
    assert "queued" in printed
    assert "completed" in printed
    assert printed.splitlines()[-1] == "The report is out."
    assert service.submissions()["count"] == 2


def test_storage(run: Run, service: LocalSupervisor, postgres_url: str) -> None:
    assert BEST in run("docs/storage.md", DATABASE_URL=postgres_url)
    assert service.submissions()["count"] == 1


def test_credentials(run: Run, service: LocalSupervisor, tmp_path: Path) -> None:
    tokens = {"FINANCE_TOKEN": "finance-7d1f", "SALES_TOKEN": "sales-90ac"}
    printed = run("docs/credentials.md", **tokens)
    assert "finance was told:" in printed
    assert "sales was told:" in printed
    jobs = service.submissions()["jobs"]
    assert len({service.job(job["id"])["bearer"] for job in jobs}) == 2
    for file in (tmp_path / "here").iterdir():
        assert not [token for token in tokens.values() if token.encode() in file.read_bytes()], file.name


def test_guarantees(run: Run, service: LocalSupervisor) -> None:
    printed = run("docs/guarantees.md")
    assert printed.startswith("1 job\n")
    assert BEST in printed
    assert service.submissions()["count"] == 1


def test_studio(run: Run, service: LocalSupervisor, tmp_path: Path) -> None:
    studio = Studio(tmp_path / "studio", environment(service.url, DATABRICKS_TOKEN="test"))
    try:
        client = studio.start()
        url = str(client.http.client.base_url)
        printed = run("docs/studio.md", LANGGRAPH_URL=url)
    finally:
        studio.end(signal.SIGTERM)
    assert printed.count("May it?") == 1
    assert "completed" in printed
    assert "I ran `publish_report`, as you approved." in printed
    jobs = [service.job(job["id"]) for job in service.submissions()["jobs"]]
    assert [job["request"]["instructions"] for job in jobs] == ["Answer in one sentence."] * 2


def test_server(run: Run, service: LocalSupervisor, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server", service=service.url) as server:
        printed = run("docs/server.md", AGENT_URL=server.url)
    assert printed.startswith(("queued\n", "in_progress\n"))
    assert printed.count(BEST) == 2
    assert printed.endswith("True\n")
    assert service.submissions()["count"] == 2


def test_tracing(run: Run, service: LocalSupervisor, tmp_path: Path) -> None:
    env = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.sqlite",
        "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS": "100",
    }
    with ServerProcess(tmp_path / "server", service=service.url, env=env) as server:
        deadline, told = time.monotonic() + 60, {}
        while "trace_id" not in told:  # It is set up in the background.
            assert time.monotonic() < deadline, server.log
            asked = httpx.post(
                f"{server.url}/responses",
                json={"input": "Are you there?"},
                headers={"x-mlflow-return-trace-id": "true"},
                timeout=60,
                trust_env=False,
            )
            told = asked.json()["metadata"]
        lines = run("docs/tracing.md", AGENT_URL=server.url, NO_PROXY="127.0.0.1", **env).splitlines()
    assert lines[0].startswith("`get_current_time` says:")
    assert lines[1] == "session: clock"
    spans = [line.split()[0] for line in lines[2:]]
    assert spans == ["supervisor", "submit", "poll", "get_current_time", "submit", "poll"]


def test_every_guide_has_one_example_and_a_test() -> None:
    guides = {str(guide.relative_to(ROOT)) for guide in GUIDES} - PAGES_WITHOUT_EXAMPLES
    assert {guide: len(examples(guide)) for guide in guides} == dict.fromkeys(guides, 1)
    assert set(re.findall(r'run\("([^"]+)"', Path(__file__).read_text())) == guides


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_its_links_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", guide.read_text()):
        if "://" not in target:
            assert (guide.parent / target).exists(), target


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_names_that_it_mentions_exist(guide: Path) -> None:
    text = guide.read_text()
    for name in set(re.findall(r"`(\w+Error)\b", text)) | set(re.findall(r"`(Supervisor\w+)`", text)):
        assert hasattr(databricks_supervisor, name), name
