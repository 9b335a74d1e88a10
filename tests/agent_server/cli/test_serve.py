"""`start-server` and `start-app` as processes: what they say, what they refuse, how they end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.processes import environment

PATIENCE_S = 90.0
HEAVY = ("databricks", "databricks_openai", "fastapi", "langgraph", "mlflow", "openai", "uvicorn")
SECRET = "hunter2"


class Server:
    """A command line that runs."""

    def __init__(self, command: str, arguments: tuple[str, ...], here: Path, env: Mapping[str, str]) -> None:
        self._errors = (here / "stderr.txt").open("w+")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from agent_server.cli.serve import {command} as start; start()",
                *arguments,
            ],
            cwd=here,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            start_new_session=True,
        )

    @property
    def said(self) -> str:
        """Everything that it has printed."""
        return Path(self._errors.name).read_text()

    def until(self, seen: Callable[[], bool]) -> None:
        """Wait for something while it runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not seen():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal it alone, and wait; gives the exit code."""
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """Leave nothing of it behind."""
        with closing(self._errors):
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


Start = Callable[..., Server]


@pytest.fixture
def start(here: Path) -> Iterator[Start]:
    """Starts a command line in an empty directory."""
    with ExitStack() as started:

        def begin(command: str, *arguments: str, env: Mapping[str, str]) -> Server:
            server = Server(command, arguments, here, env)
            started.callback(server.close)
            return server

        yield begin


@pytest.fixture
def slow_service(service: LocalSupervisor) -> Iterator[LocalSupervisor]:
    """The service, with jobs that do not end."""
    service.set_behaviour(duration_s=600)
    yield service
    service.clear_behaviour()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def any_left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def get(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=5, trust_env=False)
    except httpx.TransportError:
        return None


def answers(url: str) -> bool:
    found = get(url)
    return found is not None and found.status_code == 200


def test_a_stop_while_it_is_being_loaded_is_obeyed_where_an_exception_would_be_swallowed() -> None:
    loading = """
import os, signal
from agent_server.cli import serve

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

def load(options):
    Swallows()
    print("it went on")

serve._serve = load
serve.start_server([])
"""
    done = subprocess.run(
        [sys.executable, "-c", loading], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, ""), done.stderr


def test_the_server_answers_says_where_and_ends_with_a_stream_open(
    start: Start, slow_service: LocalSupervisor
) -> None:
    service = slow_service
    port = free_port()
    env = environment(service.url, DATABRICKS_TOKEN=SECRET)
    server = start("start_server", "--port", str(port), env=env)
    server.until(lambda: answers(f"http://127.0.0.1:{port}/health"))
    asked = {"input": [{"role": "user", "content": "Which product sold best?"}], "stream": True}
    url = f"http://127.0.0.1:{port}/responses"
    with httpx.stream("POST", url, json=asked, timeout=PATIENCE_S, trust_env=False) as stream:
        assert "server" not in stream.headers
        assert next(stream.iter_lines()).startswith("data: ")
        code = server.end()
    assert code == 128 + signal.SIGTERM
    first, *rest = server.said.splitlines()
    assert first == (
        f"Answers: the supervisor of {service.url}, asked in the name of the app. "
        "State: .supervisor/state.sqlite."
    )
    assert any(f"http://127.0.0.1:{port}" in line for line in rest)
    assert "Traceback" not in server.said
    assert "/health" not in server.said
    assert SECRET not in server.said


def test_every_worker_has_the_flags_and_ends_with_the_server(start: Start, service: LocalSupervisor) -> None:
    port = free_port()
    env = environment(service.url)
    server = start("start_app", "--no-ui", "--port", str(port), "--workers", "2", "--verbose", env=env)
    server.until(lambda: server.said.count("Application startup complete") == 2)
    assert answers(f"http://127.0.0.1:{port}/health")
    server.end()
    assert get(f"http://127.0.0.1:{port}/health") is None
    assert '"GET /health HTTP/1.1" 200' in server.said
    wait_for(lambda: not any_left(server.process.pid))


@pytest.mark.full
def test_each_user_is_asked_for_with_their_own_token_and_nothing_keeps_it(
    start: Start, service: LocalSupervisor, here: Path
) -> None:
    port = free_port()
    login = {
        "DATABRICKS_CLIENT_ID": "principal",
        "DATABRICKS_CLIENT_SECRET": SECRET,
        "SUPERVISOR_AUTH": "user",
    }
    env = environment(service.url, **login)
    del env["DATABRICKS_TOKEN"]
    server = start("start_server", "--port", str(port), "--verbose", env=env)
    server.until(lambda: answers(f"http://127.0.0.1:{port}/health"))
    bearers = []
    for user in ("ann", "bob"):
        headers = {"x-forwarded-user": user, "x-forwarded-access-token": f"token-of-{user}"}
        asked = {"input": f"Which product sold best, asks {user}?"}
        url = f"http://127.0.0.1:{port}/responses"
        given = httpx.post(url, json=asked, headers=headers, timeout=PATIENCE_S, trust_env=False)
        assert given.json()["status"] == "completed"
        assert (
            httpx.post(url, json=asked, headers={"x-forwarded-user": user}, trust_env=False).status_code
            == 401
        )
        jobs = service.submissions()["jobs"]
        bearers.append({service.job(job["id"])["bearer"] for job in jobs})
    assert (len(bearers[0]), len(bearers[1])) == (1, 2)
    assert bearers[1] == {
        hashlib.sha256(f"token-of-{user}".encode()).hexdigest()[:12] for user in ("ann", "bob")
    }
    server.end()
    assert "in the name of each user" in server.said
    for file in [*here.rglob("*.sqlite*"), here / "stderr.txt"]:
        assert b"token-of-" not in file.read_bytes()
        assert SECRET.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("command", "arguments", "env", "said"),
    [
        ("start_server", [], {"SUPERVISOR_AUTH": "both"}, "SUPERVISOR_AUTH=both: "),
        (
            "start_server",
            [],
            {"SUPERVISOR_AUTH": "user", "SUPERVISOR_BACKEND": "openai"},
            "SUPERVISOR_AUTH=user with SUPERVISOR_BACKEND=openai: ",
        ),
        (
            "start_server",
            [],
            {"SUPERVISOR_STATE_URL": f"postgresql://app:{SECRET}@127.0.0.1:9/agents"},
            "SUPERVISOR_STATE_URL: the database cannot be opened: ",
        ),
        (
            "start_server",
            [],
            {"SUPERVISOR_STATE_URL": "sqlite:////proc/1/state.sqlite"},
            "SUPERVISOR_STATE_URL: /proc/1/state.sqlite cannot be opened: ",
        ),
        ("start_server", ["--no-local"], {}, "No workspace is configured. "),
        ("start_server", ["--workers", "2", "--reload"], {}, "--reload and --workers contradict"),
        ("start_server", [], {"DATABRICKS_APP_PORT": "eighty"}, "DATABRICKS_APP_PORT=eighty: "),
        ("start_server", ["--host", "not a host"], {}, "Cannot listen on not a host:8000: "),
        ("start_app", [], {}, "The chat UI is not in e2e-chatbot-app-next. "),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    start: Start, command: str, arguments: list[str], env: dict[str, str], said: str
) -> None:
    server = start(command, *arguments, env=environment(**env))
    assert server.process.wait(PATIENCE_S) == 2
    [line] = [line for line in server.said.splitlines() if not line.startswith("Warning: ")]
    assert line.startswith(f"Error: {said}")
    assert SECRET not in line


def test_as_a_databricks_app_it_listens_where_the_platform_says(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start("start_server", env=environment(DATABRICKS_APP_PORT=str(port)))
        assert server.process.wait(PATIENCE_S) == 2
    assert server.said.startswith(f"Error: Cannot listen on 0.0.0.0:{port}: Address already in use.")


def test_a_service_that_is_away_does_not_keep_it_from_starting(start: Start) -> None:
    host, port = f"http://127.0.0.1:{free_port()}", free_port()
    server = start("start_server", "--port", str(port), env=environment(host))
    server.until(lambda: answers(f"http://127.0.0.1:{port}/health"))
    assert server.said.startswith("Warning: Cannot reach 127.0.0.1:")
    assert f"Answers: the supervisor of {host}" in server.said


@pytest.mark.parametrize("given", [["--help"], ["--port", "many"], []])
def test_nothing_heavy_is_loaded_before_everything_was_checked(here: Path, given: list[str]) -> None:
    code = "\n".join(
        [
            "import json, sys",
            "from agent_server.cli.serve import start_server",
            "try:",
            "    start_server(sys.argv[1:])",
            "finally:",
            f"    print(json.dumps([name for name in {HEAVY} if name in sys.modules]))",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *given],
        cwd=here,
        env=environment(SUPERVISOR_DURABILITY="perhaps"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == (0 if given == ["--help"] else 2)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_chat_ui_is_built_served_and_ended_with_the_server(
    how: signal.Signals, start: Start, service: LocalSupervisor, here: Path
) -> None:
    ui, port, chat_port = here / "ui", free_port(), free_port()
    ui.mkdir()
    serve = f"{sys.executable} -m http.server --bind 127.0.0.1 $CHAT_APP_PORT"
    scripts = {"build": "echo $API_PROXY $SUPERVISOR_STATE_URL > index.html", "start": serve}
    (ui / "package.json").write_text(json.dumps({"name": "ui", "private": True, "scripts": scripts}))
    env = environment(service.url, SUPERVISOR_UI_DIR="ui", CHAT_APP_PORT=str(chat_port))
    env["SUPERVISOR_STATE_URL"] = "sqlite:///secret.sqlite"
    server = start("start_app", "--port", str(port), env=env)
    server.until(lambda: answers(f"http://127.0.0.1:{port}/"))
    page = get(f"http://127.0.0.1:{port}/")
    assert page is not None
    assert page.text.strip() == f"http://127.0.0.1:{port}/invocations"
    assert answers(f"http://127.0.0.1:{port}/health")
    assert server.end(how) == (128 + how if how == signal.SIGTERM else -how)
    deadline = time.monotonic() + PATIENCE_S
    while get(f"http://127.0.0.1:{chat_port}/") is not None:
        assert time.monotonic() < deadline, "the chat UI runs on"
        time.sleep(0.05)


def test_a_chat_ui_that_ends_does_not_take_the_server_along(
    start: Start, service: LocalSupervisor, here: Path
) -> None:
    ui, port = here / "ui", free_port()
    ui.mkdir()
    scripts = {"build": "exit 7", "start": "true"}
    (ui / "package.json").write_text(json.dumps({"name": "ui", "private": True, "scripts": scripts}))
    server = start("start_app", "--port", str(port), env=environment(service.url, SUPERVISOR_UI_DIR="ui"))
    server.until(lambda: "The chat UI ended (exit code 7)." in server.said)
    server.until(lambda: answers(f"http://127.0.0.1:{port}/health"))
