"""The graph under the real `langgraph dev`, as LangGraph Studio uses it."""

from __future__ import annotations

import json
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from langgraph_sdk.client import SyncLangGraphClient
from langgraph_sdk.errors import ConflictError

from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.processes import no_local_supervisor_left
from tests.support.studio_process import GRAPH, Studio, Values, environment, wait_for

TOKEN = "recognisable-7c41f0-token"
BLOCKING = re.compile(r"BlockingError|Blocking call to")
ASKS = {"approvals": [{"name": "publish", "server_label": "reports", "arguments": {"title": "Sales"}}]}
APPROVE = {"type": "approve"}

EDGES = {
    ("__start__", "submit"),
    ("submit", "submit"),
    ("submit", "poll"),
    ("submit", "__end__"),
    ("poll", "poll"),
    ("poll", "approve"),
    ("poll", "call_tools"),
    ("poll", "__end__"),
    ("approve", "approve"),
    ("approve", "call_tools"),
    ("approve", "submit"),
    ("approve", "poll"),
    ("approve", "__end__"),
    ("call_tools", "call_tools"),
    ("call_tools", "submit"),
    ("call_tools", "poll"),
    ("call_tools", "__end__"),
}


@pytest.fixture(scope="module")
def server(service: LocalSupervisor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """One server for all; a test that ends it starts it again."""
    env = environment(service.url, DATABRICKS_TOKEN=TOKEN)
    studio = Studio(tmp_path_factory.mktemp("studio"), env, "--n-jobs-per-worker", "4")
    _clients[studio] = studio.start()
    try:
        yield studio
    finally:
        studio.end(signal.SIGTERM)
    assert not BLOCKING.search(studio.log.read_text())
    files = [file for file in studio.directory.rglob("*") if file.is_file()]
    assert {"state.sqlite", "log.txt", ".langgraph_ops.pckl"} <= {file.name for file in files}
    holding = [file.name for file in files if TOKEN.encode() in file.read_bytes()]
    assert holding == [], "the token was stored or logged"


@pytest.fixture
def client(server: Studio) -> SyncLangGraphClient:
    """A client of the server that runs now."""
    return _clients[server]


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a process behind."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    if "server" in request.fixturenames:
        before.add(request.getfixturevalue("server").pid)
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert left == [], "the test left processes behind"


_clients: dict[Studio, SyncLangGraphClient] = {}


# ---- what Studio draws


def test_the_schemas_are_a_chat_and_settings_with_descriptions(client: SyncLangGraphClient) -> None:
    schemas: Any = client.assistants.get_schemas(_assistant(client))
    json.dumps(schemas)
    given = schemas["input_schema"]
    assert given["required"] == ["messages"]
    assert set(given["properties"]) == {"messages", "turn_id", "tools"}
    kinds = {each["$ref"].rpartition("/")[2] for each in given["properties"]["messages"]["items"]["oneOf"]}
    assert {"HumanMessage", "AIMessage", "ToolMessage"} <= kinds
    assert set(schemas["output_schema"]["properties"]) == {"messages"}
    assert set(schemas["state_schema"]["properties"]) == {"messages", "job"}
    settings = schemas["context_schema"]["properties"]
    assert set(settings) == {"model", "instructions", "polling", "require_approval", "identity"}
    for name, field in settings.items():
        assert field["description"].endswith("."), name
        assert field["default"] is None, name
        assert field["anyOf"][-1] == {"type": "null"}, name
    assert {"type": "number"} in settings["polling"]["anyOf"]


def test_the_drawing_is_the_graph(client: SyncLangGraphClient) -> None:
    drawn: Any = client.assistants.get_graph(_assistant(client))
    assert {node["id"] for node in drawn["nodes"]} == {
        "__start__",
        "submit",
        "poll",
        "approve",
        "call_tools",
        "__end__",
    }
    assert {(edge["source"], edge["target"]) for edge in drawn["edges"]} == EDGES


# ---- a run


@pytest.mark.parametrize("duration", [0.05, 0.8], ids=["at once", "bit by bit"])
def test_a_stream_has_progress_each_message_once_in_order_and_the_answer_in_chunks(
    client: SyncLangGraphClient, service: LocalSupervisor, duration: float
) -> None:
    text = "All of them sold well. " * 30
    hosted = {"type": "function_call", "call_id": "c1", "name": "system__ai__genie_query", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "| units |"}
    question = _question(items=[_message("First."), hosted, output, _message(text)], duration_s=duration)
    thread = client.threads.create()["thread_id"]
    modes: Any = ["values", "updates", "messages-tuple", "custom"]
    by_mode: dict[str, list[Any]] = {}
    for part in client.runs.stream(thread, GRAPH, input=_asked(question), stream_mode=modes):
        by_mode.setdefault(part.event, []).append(part.data)
    assert set(by_mode) == {"metadata", "values", "updates", "messages", "custom"}
    # Progress: of one job, from its start to its end.
    progress = by_mode["custom"]
    assert {event["type"] for event in progress} == {"supervisor.progress"}
    assert len({event["response_id"] for event in progress}) == 1
    assert progress[-1]["status"] == "completed"
    assert progress[-1]["items"] == 4
    # Messages: each text once, the long one in chunks that add up to it.
    chunks: dict[str, list[str]] = {}
    for message, _ in by_mode["messages"]:
        chunks.setdefault(message["id"], []).append(message["content"])
    assert ["".join(said) for said in chunks.values()] == ["First.", "", "| units |", text]
    assert [len(said) > 1 for said in chunks.values()] == [False, False, False, True]
    # Values and updates tell the same scenario under the same ids.
    ids = [message["id"] for message in by_mode["values"][-1]["messages"] if message["type"] != "human"]
    assert ids == list(chunks)
    polls = [update["poll"] for update in by_mode["updates"] if update.get("poll")]
    assert [message["id"] for poll in polls for message in poll.get("messages", [])] == ids
    assert _count(service, question) == 1


@pytest.mark.parametrize("decision", [APPROVE, {"type": "reject", "message": "not today"}], ids=["yes", "no"])
def test_an_approval_is_one_request_that_can_be_inspected_and_answered(
    client: SyncLangGraphClient, service: LocalSupervisor, decision: dict[str, Any]
) -> None:
    question = _question(**ASKS, duration_s=0.2)
    thread = client.threads.create()["thread_id"]
    client.runs.wait(thread, GRAPH, input=_asked(question))
    assert client.threads.get(thread)["status"] == "interrupted"
    state = client.threads.get_state(thread)
    assert state["next"] == ["approve"]
    [asked] = _interrupts(client, thread)
    assert [action["name"] for action in asked["action_requests"]] == ["publish"]
    assert asked["action_requests"][0]["args"] == {"title": "Sales"}
    assert asked["review_configs"] == [{"action_name": "publish", "allowed_decisions": ["approve", "reject"]}]
    client.runs.wait(thread, GRAPH, command={"resume": {"decisions": [decision]}})
    assert client.threads.get(thread)["status"] == "idle"
    assert _job(client, thread)["ended"]
    posted = [item for item in _last_input(service, question) if item["type"] == "mcp_approval_response"]
    assert [item["approve"] for item in posted] == [decision is APPROVE]
    assert _count(service, question) == 2  # the question, and the follow-up


def test_an_answer_that_is_not_understood_approves_nothing_and_says_why(
    client: SyncLangGraphClient, service: LocalSupervisor
) -> None:
    question = _question(**ASKS, duration_s=0.2)
    thread = client.threads.create()["thread_id"]
    client.runs.wait(thread, GRAPH, input=_asked(question))
    client.runs.wait(thread, GRAPH, command={"resume": {"decisions": []}})
    [asked] = _interrupts(client, thread)
    assert "Nothing was approved" in asked["error"]
    assert _count(service, question) == 1


def test_a_cancelled_run_leaves_the_job_alone_and_is_gone_on_with(
    client: SyncLangGraphClient, service: LocalSupervisor
) -> None:
    question = _question(reply="Here it is.", duration_s=1.5)
    thread = client.threads.create()["thread_id"]
    run = client.runs.create(thread, GRAPH, input=_asked(question))["run_id"]
    response_id = _submitted(client, thread)["response_id"]
    client.runs.cancel(thread, run, wait=True)
    assert client.threads.get_state(thread)["next"]
    result: Any = client.runs.wait(thread, GRAPH, input=None)
    assert _texts(result) == [question, "Here it is."]
    assert _job(client, thread)["response_id"] == response_id
    assert _count(service, question) == 1


def test_while_a_run_is_on_another_one_is_rejected_or_has_to_wait(
    client: SyncLangGraphClient, service: LocalSupervisor
) -> None:
    first, second = _question(reply="One.", duration_s=1.2), _question(reply="Two.", duration_s=0.2)
    thread = client.threads.create()["thread_id"]
    client.runs.create(thread, GRAPH, input=_asked(first))
    with pytest.raises(ConflictError):
        client.runs.create(thread, GRAPH, input=_asked(second), multitask_strategy="reject")
    later = client.runs.create(thread, GRAPH, input=_asked(second), multitask_strategy="enqueue")
    result: Any = client.runs.join(thread, later["run_id"])
    assert _texts(result) == [first, "One.", second, "Two."]
    assert [_count(service, question) for question in (first, second)] == [1, 1]


def test_a_run_that_interrupts_another_joins_its_job_or_is_told_that_the_thread_is_busy(
    client: SyncLangGraphClient, service: LocalSupervisor
) -> None:
    question = _question(reply="One.", duration_s=2)
    thread = client.threads.create()["thread_id"]
    client.runs.create(thread, GRAPH, input=_asked(question))
    _submitted(client, thread)
    other = client.runs.create(thread, GRAPH, input=_asked("And?"), multitask_strategy="interrupt")
    refused: Any = client.runs.join(thread, other["run_id"])
    assert refused["__error__"]["error"] == "ThreadBusyError"
    assert "is busy with another question" in refused["__error__"]["message"]
    client.runs.create(thread, GRAPH, input=_asked(question))
    again = client.runs.create(thread, GRAPH, input=_asked(question), multitask_strategy="interrupt")
    result: Any = client.runs.join(thread, again["run_id"])
    assert _texts(result) == [question, "One."]
    assert _count(service, question) == 1
    assert _count(service, "And?") == 0


def test_threads_run_at_once(client: SyncLangGraphClient, service: LocalSupervisor) -> None:
    questions = [_question(reply="Here.", duration_s=1) for _ in range(3)]
    threads = [client.threads.create()["thread_id"] for _ in questions]
    runs = [
        client.runs.create(thread, GRAPH, input=_asked(question))["run_id"]
        for thread, question in zip(threads, questions, strict=True)
    ]
    for thread, run, question in zip(threads, runs, questions, strict=True):
        result: Any = client.runs.join(thread, run)
        assert _texts(result) == [question, "Here."]
        assert _count(service, question) == 1


def test_an_assistant_s_settings_reach_the_service(
    client: SyncLangGraphClient, service: LocalSupervisor
) -> None:
    assistant: Any = client.assistants.create(
        GRAPH,
        context={"model": "databricks-gpt-oss-120b", "instructions": "Be brief.", "polling": 0.2},
        name="brief",
    )
    question = _question(reply="Yes.", duration_s=0.2)
    thread = client.threads.create()["thread_id"]
    client.runs.wait(thread, assistant["assistant_id"], input=_asked(question))
    [job] = service.submissions(_bare(question))["jobs"]
    body = service.job(job["id"])["request"]
    assert body["model"] == "databricks-gpt-oss-120b"
    assert body["instructions"] == "Be brief."
    changed: Any = client.assistants.update(assistant["assistant_id"], context={"polling": -1})
    refused: Any = client.runs.wait(thread, changed["assistant_id"], input=_asked("x"), raise_error=False)
    assert refused["__error__"]["error"] == "ConfigurationError"


def test_an_error_is_told_in_words(client: SyncLangGraphClient) -> None:
    question = _question(
        final_status="failed", error={"code": "x", "message": "The warehouse is away."}, duration_s=0.2
    )
    thread = client.threads.create()["thread_id"]
    result: Any = client.runs.wait(thread, GRAPH, input=_asked(question), raise_error=False)
    assert result["__error__"]["error"] == "JobFailedError"
    assert "The warehouse is away." in result["__error__"]["message"]


def test_a_refusal_that_repeats_the_token_is_told_without_it(
    client: SyncLangGraphClient, service: LocalSupervisor
) -> None:
    service.set_behaviour(create_error_forever={"status": 403, "message": f"Bearer {TOKEN} may not."})
    try:
        thread = client.threads.create()["thread_id"]
        result: Any = client.runs.wait(thread, GRAPH, input=_asked(_question()), raise_error=False)
    finally:
        service.clear_behaviour()
    assert result["__error__"]["error"] == "PermissionDeniedError"
    assert "may not" in result["__error__"]["message"]
    assert TOKEN not in result["__error__"]["message"]


def test_a_deleted_thread_starts_anew(client: SyncLangGraphClient, service: LocalSupervisor) -> None:
    question = _question(reply="Yes.", duration_s=0.2)
    thread = str(uuid.uuid4())
    for count in (1, 2):
        client.threads.create(thread_id=thread)
        result: Any = client.runs.wait(thread, GRAPH, input=_asked(question))
        assert _texts(result) == [question, "Yes."]
        assert _count(service, question) == count
        client.threads.delete(thread)


# ---- the server goes away


@pytest.mark.full
def test_a_server_that_was_stopped_goes_on_with_its_runs(server: Studio, service: LocalSupervisor) -> None:
    client = _clients[server]
    waiting, asking = _waiting_thread(client)
    polling, polled = _polling_thread(client)
    client = _restart(server, signal.SIGTERM)
    _answered_once(client, service, polling, polled)
    _approved_once(client, service, waiting, asking)


def test_a_server_that_was_killed_loses_no_job_and_gives_no_old_answer_to_a_new_question(
    server: Studio, service: LocalSupervisor
) -> None:
    """Killed while a follow-up is under way, the server runs the answer that led to it again."""
    client = _clients[server]
    waiting, asking = _waiting_thread(client)
    sending, sent = _waiting_thread(client)
    service.set_behaviour(answer_delay_s=60)
    try:
        run = client.runs.create(sending, GRAPH, command={"resume": {"decisions": [APPROVE]}})["run_id"]
        wait_for(lambda: {} if _count(service, sent) == 2 else None, "the follow-up")
        kept = server.directory / ".langgraph_api" / ".langgraph_ops.pckl"
        pickled = uuid.UUID(run).bytes[::-1]
        wait_for(lambda: {} if pickled in kept.read_bytes() else None, "the server's own record of the run")
    finally:
        service.clear_behaviour()
    polling, polled = _polling_thread(client)
    client = _restart(server, signal.SIGKILL)
    # Of what began in its last seconds, the server knows nothing; the checkpoints do.
    client.threads.create(thread_id=polling, if_exists="do_nothing", graph_id=GRAPH)
    _answered_once(client, service, polling, polled)
    _approved_once(client, service, waiting, asking)
    _at_rest(client, sending)
    [asked] = _interrupts(client, sending)
    assert asked["kind"] == "repeat_submission"
    client.runs.wait(
        sending, GRAPH, command={"resume": {"decisions": [{"type": "reject"}]}}, raise_error=False
    )
    assert _job(client, sending)["ended"]
    assert _count(service, sent) == 2


def test_without_a_workspace_the_local_supervisor_answers(tmp_path: Path) -> None:
    with no_local_supervisor_left(tmp_path):
        studio = Studio(tmp_path, environment(None))
        try:
            client = studio.start()
            thread = client.threads.create()["thread_id"]
            asked = _asked('Which product sold best last quarter? [[local: {"duration_s": 0.3}]]')
            result: Any = client.runs.wait(thread, GRAPH, input=asked)
            assert "had the highest revenue" in _texts(result)[-1]
            assert not BLOCKING.search(studio.log.read_text())
        finally:
            studio.end(signal.SIGTERM)


def _restart(server: Studio, how: signal.Signals) -> SyncLangGraphClient:
    server.end(how)
    client = _clients[server] = server.start()
    return client


def _assistant(client: SyncLangGraphClient) -> str:
    [found] = client.assistants.search(graph_id=GRAPH, metadata={"created_by": "system"})
    return found["assistant_id"]


def _question(**behaviour: Any) -> str:
    return f"Question {uuid.uuid4().hex[:8]}? [[local: {json.dumps(behaviour)}]]"


def _bare(question: str) -> str:
    """A question without its directive, as the service knows it."""
    return question.partition(" [[")[0]


def _count(service: LocalSupervisor, question: str, what: str = "count") -> int:
    return int(service.submissions(_bare(question))[what])


def _message(text: str) -> Values:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def _asked(question: str) -> Values:
    return {"messages": [{"role": "user", "content": question}]}


def _texts(values: Values) -> list[str]:
    return [message["content"] for message in values["messages"]]


def _job(client: SyncLangGraphClient, thread: str) -> Values:
    values: Any = client.threads.get_state(thread)["values"]
    return (values or {}).get("job") or {}


def _submitted(client: SyncLangGraphClient, thread: str) -> Values:
    return wait_for(
        lambda: job if (job := _job(client, thread)).get("response_id") else None, "the submission"
    )


def _interrupts(client: SyncLangGraphClient, thread: str) -> list[Values]:
    return [
        asked["value"] for task in client.threads.get_state(thread)["tasks"] for asked in task["interrupts"]
    ]


def _last_input(service: LocalSupervisor, question: str) -> list[Values]:
    jobs = [service.job(job["id"]) for job in service.submissions(_bare(question))["jobs"]]
    last = max(jobs, key=lambda job: len(job["request"]["input"]))
    return list(last["request"]["input"])


def _at_rest(client: SyncLangGraphClient, thread: str) -> None:
    """Wait until no run of the thread is under way, or waits to be."""

    def look() -> Values | None:
        runs = client.runs.list(thread)
        return {} if all(run["status"] not in ("pending", "running") for run in runs) else None

    wait_for(look, "the end of the runs")


def _waiting_thread(client: SyncLangGraphClient) -> tuple[str, str]:
    """A thread that waits for an approval, and its question."""
    question = _question(**ASKS, duration_s=0.2)
    thread = client.threads.create()["thread_id"]
    client.runs.wait(thread, GRAPH, input=_asked(question))
    return thread, question


def _polling_thread(client: SyncLangGraphClient) -> tuple[str, str]:
    """A thread whose job runs, and its question."""
    question = _question(reply="Polled.", duration_s=4)
    thread = client.threads.create()["thread_id"]
    client.runs.create(thread, GRAPH, input=_asked(question))
    _submitted(client, thread)
    return thread, question


def _answered_once(client: SyncLangGraphClient, service: LocalSupervisor, thread: str, question: str) -> None:
    assert _texts(_brought_to_its_end(client, thread)) == [question, "Polled."]
    assert _count(service, question) == 1


def _approved_once(client: SyncLangGraphClient, service: LocalSupervisor, thread: str, question: str) -> None:
    assert len(_interrupts(client, thread)) == 1
    client.runs.wait(thread, GRAPH, command={"resume": {"decisions": [APPROVE]}})
    assert _job(client, thread)["ended"]
    assert _count(service, question) == 2


def _brought_to_its_end(client: SyncLangGraphClient, thread: str) -> Values:
    """What the server does by itself, and then what a person would do."""
    _at_rest(client, thread)
    if not _job(client, thread).get("ended"):
        client.runs.wait(thread, GRAPH, input=None)
    values: Any = client.threads.get_state(thread)["values"]
    return dict(values)
