"""Traces of a real server: what they hold, what they never hold, and that nothing depends on them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment, Span, Trace
from mlflow.entities.trace_location import UnityCatalog

from agent_server.tracing.mlflow_tracing import destination_of
from tests.support.local_supervisor_process import RESPONSES, LocalSupervisor
from tests.support.processes import environment
from tests.support.server_process import ServerProcess

TOKENS = {name: f"canary-{name}-{uuid.uuid4().hex}" for name in ("user", "app", "bearer", "key")}
ANN = {
    "x-forwarded-user": "ann@example.com",
    "x-forwarded-access-token": TOKENS["user"],
    "authorization": f"Bearer {TOKENS['bearer']}",
    "x-mlflow-return-trace-id": "true",
}
APPROVAL = '[[local: {"approvals":[{"name":"publish","server_label":"reports","arguments":{"a":1}}]}]]'
EXPERIMENT = "agent"
PATIENCE_S = 60.0


class Store:
    """MLflow's tracking store, as the server that writes it left it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.uri = f"sqlite:///{directory}/mlflow.sqlite"

    def trace(self, trace_id: str) -> Trace:
        """A trace, once it is written."""
        client, deadline = MlflowClient(self.uri), time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(Exception):
                trace = client.get_trace(trace_id, display=False)
                if trace.info.state in ("OK", "ERROR") and all(span.end_time_ns for span in trace.data.spans):
                    return trace
            assert time.monotonic() < deadline, f"{trace_id} was not written"
            time.sleep(0.1)

    def traces_of(self, session: str) -> list[Trace]:
        """All traces of a conversation, once there is one: what it is found by is written last."""
        client, deadline = MlflowClient(self.uri), time.monotonic() + PATIENCE_S
        experiment = client.get_experiment_by_name(EXPERIMENT)
        wanted = f"metadata.`mlflow.trace.session` = '{session}'"
        places = [experiment.experiment_id]
        while not (
            found := client.search_traces(locations=places, filter_string=wanted, include_spans=False)
        ):
            assert time.monotonic() < deadline, f"no trace of {session} was written"
            time.sleep(0.1)
        return list(found)


class World:
    """A server on behalf of its users that writes traces, with the service that it asks."""

    def __init__(self, server: ServerProcess, service: LocalSupervisor, store: Store) -> None:
        self.server, self.service, self.store = server, service, store

    def post(self, question: Any, thread: str, headers: dict[str, str] = ANN, **more: Any) -> httpx.Response:
        """One request."""
        body = {"input": question, "custom_inputs": {"thread_id": thread}, **more}
        answer = httpx.post(
            f"{self.server.url}/responses", json=body, headers=headers, timeout=60, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        return answer

    def ask(self, question: Any, thread: str, **more: Any) -> dict[str, Any]:
        """One answer as a whole."""
        body: dict[str, Any] = self.post(question, thread, **more).json()
        return body


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The server, once it traces."""
    directory = tmp_path_factory.mktemp("traced")
    store = Store(directory)
    env = {
        "SUPERVISOR_AUTH": "user",
        "DATABRICKS_TOKEN": TOKENS["app"],
        "MLFLOW_TRACKING_URI": store.uri,
        "MLFLOW_EXPERIMENT_NAME": EXPERIMENT,
        "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS": "100",
    }
    with (
        LocalSupervisor(directory / "service", {"duration_s": 0.3}) as service,
        ServerProcess(directory / "server", service=service.url, env=env) as server,
    ):
        made = World(server, service, store)
        made.ask("Are you new here?", "first")
        deadline = time.monotonic() + PATIENCE_S
        while "trace_id" not in made.ask("Are you there?", uuid.uuid4().hex)["metadata"]:
            assert time.monotonic() < deadline, server.log
        yield made


def named(trace: Trace, name: str) -> list[Span]:
    """The spans with a name, in order."""
    found = [span for span in trace.data.spans if span.name == name]
    return sorted(found, key=lambda span: span.start_time_ns)


def names(trace: Trace) -> list[str]:
    """The names of all spans, in order."""
    return [span.name for span in sorted(trace.data.spans, key=lambda span: span.start_time_ns)]


def test_a_turn_is_one_trace_with_its_submission_and_one_span_for_all_polls(world: World) -> None:
    body = world.ask("Which product sold best?", "plain")
    trace = world.store.trace(body["metadata"]["trace_id"])
    assert names(trace) == ["supervisor", "submit", "poll"]
    root, submit, poll = (named(trace, name)[0] for name in ("supervisor", "submit", "poll"))
    assert submit.parent_id == poll.parent_id == root.span_id
    assert trace.info.trace_metadata["mlflow.trace.session"] == "plain"
    assert trace.info.trace_metadata["mlflow.trace.user"] == "ann@example.com"
    assert root.inputs["input"][0]["content"] == "Which product sold best?"
    assert [item["type"] for item in root.outputs["output"]] == [item["type"] for item in body["output"]]
    assert root.outputs["output"][-1]["content"] == body["output"][-1]["content"]
    job = world.service.job(body["custom_outputs"]["response_id"])
    assert job["polls"] > 1
    assert poll.attributes["supervisor.polls"] == job["polls"]
    assert poll.attributes["supervisor.status"] == "completed"
    assert {span.attributes["supervisor.response_id"] for span in (root, submit, poll)} == {job["id"]}


def test_a_turn_that_ended_before_mlflow_was_set_up_is_traced_too(world: World) -> None:
    [found] = world.store.traces_of("first")
    trace = world.store.trace(found.info.trace_id)
    assert names(trace) == ["supervisor", "submit", "poll"]
    assert trace.info.execution_duration > 300  # As long as the job, whenever it was written.


def test_a_job_that_fails_fails_its_trace(world: World) -> None:
    failing = '[[local: {"final_status": "failed", "error": {"code": "x", "message": "No more tokens"}}]]'
    body = world.ask(f"Fail. {failing}", "failing")
    assert body["status"] == "failed"
    trace = world.store.trace(body["metadata"]["trace_id"])
    assert names(trace) == ["supervisor", "submit", "poll"]
    assert trace.info.state == "ERROR"
    assert "No more tokens" in named(trace, "poll")[0].attributes["supervisor.error"]


def test_the_service_is_told_which_span_asks_it(world: World) -> None:
    body = world.ask("Which product sold best in Europe?", "parent")
    trace = world.store.trace(body["metadata"]["trace_id"])
    job = world.service.job(body["custom_outputs"]["response_id"])
    _, trace_id, span_id, _ = job["traceparent"].split("-")
    assert f"tr-{trace_id}" == trace.info.trace_id
    assert span_id == named(trace, "submit")[0].span_id
    assert "trace_destination" not in job["request"]  # The experiment has no place in Unity Catalog.


def test_an_approval_and_what_follows_it_are_in_the_trace_of_the_turn(world: World) -> None:
    asked = world.ask(f"Publish it. {APPROVAL}", "approval")
    [request] = [item for item in asked["output"] if item["type"] == "mcp_approval_request"]
    answer = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": False}
    answered = world.ask([answer], "approval")
    assert answered["metadata"]["trace_id"] == asked["metadata"]["trace_id"]
    trace = world.store.trace(answered["metadata"]["trace_id"])
    assert names(trace) == ["supervisor", "submit", "poll", "approve", "submit", "poll"]
    [approve] = named(trace, "approve")
    assert approve.inputs["requests"][0]["name"] == "publish"
    [decision] = approve.outputs["decisions"]
    assert (decision["approval_request_id"], decision["approve"]) == (request["id"], False)
    assert len({span.attributes["supervisor.response_id"] for span in named(trace, "poll")}) == 2
    assert len(world.store.traces_of("approval")) == 1


def test_a_function_is_in_the_trace_with_what_it_was_given_and_gave_back(world: World) -> None:
    body = world.ask("What time is it?", "function")
    trace = world.store.trace(body["metadata"]["trace_id"])
    assert names(trace) == ["supervisor", "submit", "poll", "get_current_time", "submit", "poll"]
    [function] = named(trace, "get_current_time")
    assert function.span_type == "TOOL"
    [output] = [item for item in body["output"] if item["type"] == "function_call_output"]
    assert function.outputs == {"output": output["output"]}
    assert function.inputs is not None


def test_a_stream_ends_with_the_id_of_its_trace_also_when_it_is_asked_for_again(world: World) -> None:
    def told(headers: dict[str, str]) -> list[dict[str, Any]]:
        text = world.post(question, "stream", headers=headers, stream=True).text
        data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return [event for each in data[:-1] if "trace_id" in (event := json.loads(each))]

    question = [{"role": "user", "content": "Which product sold best in 2024?"}]
    [first] = told(ANN)
    trace = world.store.trace(first["trace_id"])
    found = named(trace, "supervisor")[0].attributes["supervisor.response_id"]
    assert world.service.job(found)["question"] == "Which product sold best in 2024?"
    assert told({**ANN, "x-mlflow-return-trace-id": "false"}) == []


def test_who_asks_for_an_answer_that_is_there_already_gets_the_id_of_its_trace(world: World) -> None:
    key = {**ANN, "idempotency-key": uuid.uuid4().hex}
    answers = [world.post("Which product sold worst?", "again", headers=key).json() for _ in range(2)]
    assert answers[0]["id"] == answers[1]["id"]
    assert answers[0]["metadata"]["trace_id"] == answers[1]["metadata"]["trace_id"]
    world.store.trace(answers[0]["metadata"]["trace_id"])
    assert len(world.store.traces_of("again")) == 1


CALLS_A_MODEL = """
import asyncio, sys, mlflow, openai
from agent_server.tracing.mlflow_tracing import _connect
_connect()
client = openai.AsyncOpenAI(base_url=sys.argv[1], api_key=sys.argv[2])
headers = {"Authorization": f"Bearer {sys.argv[2]}", "x-forwarded-access-token": sys.argv[2]}
call = client.responses.create(model="m", input=[{"role": "user", "content": "Hi"}], extra_headers=headers)
asyncio.run(call)
mlflow.flush_trace_async_logging()
print(mlflow.get_last_active_trace_id())
"""


def test_no_credential_is_in_what_was_traced_not_even_of_calls_that_mlflow_logs_itself(world: World) -> None:
    body = world.ask("And by region?", "secrets")
    world.store.trace(body["metadata"]["trace_id"])
    env = {"MLFLOW_TRACKING_URI": world.store.uri, "MLFLOW_EXPERIMENT_NAME": EXPERIMENT}
    url = world.service.url + RESPONSES.removesuffix("/responses")
    command = [sys.executable, "-c", CALLS_A_MODEL, url, TOKENS["key"]]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], env=environment() | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    logged = world.store.trace(done.stdout.split()[-1])
    assert names(logged) == ["AsyncResponses"]
    assert "extra_headers" in logged.data.spans[0].inputs
    files = [path for path in world.store.directory.rglob("*") if path.is_file()]
    assert any(b"And by region?" in path.read_bytes() for path in files if "mlflow.sqlite" in path.name)
    for path in files:
        found = [name for name, token in TOKENS.items() if token.encode() in path.read_bytes()]
        assert not found, f"{found} in {path}"


@pytest.fixture
def stuck() -> Iterator[str]:
    """A tracking server that knows the experiment, which is in Unity Catalog, and answers nothing else."""
    over = threading.Event()
    tag = {"key": "mlflow.experiment.databricksTraceDestinationPath", "value": "main.traces.agent"}
    experiment = {"experiment_id": "7", "name": "agent", "lifecycle_stage": "active", "tags": [tag]}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/experiments/get" not in self.path:
                over.wait()
                return
            body = json.dumps({"experiment": experiment}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            over.wait()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_tracking_server_that_hangs_holds_up_neither_answers_nor_the_end(
    stuck: str, tmp_path: Path, service: LocalSupervisor
) -> None:
    env = {"MLFLOW_TRACKING_URI": stuck, "MLFLOW_EXPERIMENT_ID": "7"}
    with ServerProcess(tmp_path / "server", service=service.url, env=env) as server:
        world = World(server, service, Store(tmp_path))
        deadline = time.monotonic() + PATIENCE_S
        while True:
            body = world.ask("How are sales?", uuid.uuid4().hex)
            assert body["status"] == "completed"
            request = service.job(body["custom_outputs"]["response_id"])["request"]
            if "trace_destination" in request:
                break
            assert time.monotonic() < deadline, server.log
        names = {"catalog_name": "main", "schema_name": "traces", "table_prefix": "agent"}
        assert request["trace_destination"] == names
        assert world.ask("And now?", uuid.uuid4().hex)["metadata"]["trace_id"]
        assert server.terminate() is not None, server.log


@pytest.mark.full
@pytest.mark.parametrize(
    "env",
    [
        pytest.param({}, id="nothing is configured"),
        pytest.param(
            {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_EXPERIMENT_ID": "7"}, id="nobody listens"
        ),
    ],
)
def test_without_a_tracking_server_jobs_run_and_nothing_is_written(
    env: dict[str, str], tmp_path: Path, service: LocalSupervisor
) -> None:
    with ServerProcess(tmp_path / "server", service=service.url, env=env) as server:
        body = World(server, service, Store(tmp_path)).ask("How are sales?", "t")
        assert body["status"] == "completed"
        assert "trace_id" not in body["metadata"]
        assert service.job(body["custom_outputs"]["response_id"])["traceparent"] is None
        assert server.terminate() is not None, server.log
    assert {path.name for path in (tmp_path / "server").iterdir()} == {"server.log", ".supervisor"}


def test_a_location_without_a_table_prefix_is_a_destination_too() -> None:
    location = UnityCatalog("main", "traces")
    experiment = Experiment("1", "agent", "", "active", trace_location=location)
    assert destination_of(experiment) == {"catalog_name": "main", "schema_name": "traces"}
    assert destination_of(Experiment("1", "agent", "", "active")) is None
