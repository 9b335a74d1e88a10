"""A server that is told to stop detaches: every job runs on, and a server that starts takes it up by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.replicas.conftest import NewClient
from tests.replicas.database import Database, turn_of
from tests.replicas.responses_client import (
    PATIENCE_S,
    Heard,
    ResponsesClient,
    allow,
    new_thread,
    question,
    requests_in,
    text_of,
)
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.server_process import ServerProcess

logger = logging.getLogger(__name__)

STREAMS = 6
STOPPED_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def server(service: LocalSupervisor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a file of its own, running at the begin of each test."""
    with ServerProcess(tmp_path_factory.mktemp("stopping"), service=service.url) as server:
        yield server


@pytest.fixture
def kept(server: ServerProcess) -> Database:
    """What it keeps."""
    return Database(f"sqlite:///{state_of(server)}")


def state_of(server: ServerProcess) -> Path:
    """The file that a server keeps its state in unless it is told another place."""
    return server.directory / ".supervisor" / "state.sqlite"


def stop(server: ServerProcess) -> None:
    """SIGTERM; it has to end by itself."""
    began = time.monotonic()
    code = server.terminate(STOPPED_WITHIN_S)
    logger.info("stopped after %.2f s with %s", time.monotonic() - began, code)
    assert code is not None, "it did not end by itself"


def until_submitted(service: LocalSupervisor, asked: str | None = None, *, posts: int = 0) -> None:
    """Wait for the job of a question; or, with ``posts``, until so many POSTs have reached the service."""
    deadline = time.monotonic() + PATIENCE_S
    while not (service.submissions(asked)["count"] if asked else service.submissions()["posts"] >= posts):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass
class Stopped:
    """What was under way when the server stopped, and what was found before it was started again.

    Attributes:
        streams: What the streams had said, by question.
        waited: A request without a stream, and its answer.
        short, long: Question and public id of a submit that takes a second, and of one that takes too long.
        recorded: How many jobs the ledger knew, by public id.
        ended: Turns that had ended.
    """

    streams: dict[str, Heard]
    waited: tuple[dict[str, Any], httpx.Response]
    short: tuple[str, str]
    long: tuple[str, str]
    recorded: dict[str, int]
    ended: set[str]


@pytest.fixture(scope="module")
def stopped(server: ServerProcess, service: LocalSupervisor) -> Stopped:
    """The server is told to stop with streams open, jobs running and submits under way; then it starts again."""
    names = [f"Stop {new_thread()}" for _ in range(STREAMS)]
    short, long, patient = (f"{word} {new_thread()}" for word in ("Short", "Long", "Patient"))
    client = ResponsesClient(server.url)

    def listen(name: str) -> Heard:
        return client.stream({"input": question(name, reply=f"About {name}", duration_s=5)})

    def submit(name: str, seconds: float) -> tuple[str, str]:
        asked = question(name, accept_delay_s=seconds, reply="Kept.")
        return name, str(client.ask({"input": asked, "background": True})["id"])

    waits: dict[str, Any] = {"input": question(patient, reply="Worth it.", duration_s=5)}
    waits["custom_inputs"] = {"thread_id": new_thread()}
    with ThreadPoolExecutor(STREAMS + 1) as pool:
        waiting = pool.submit(client.post, waits)
        until_submitted(service, patient)
        streams = {name: pool.submit(listen, name) for name in names}
        for name in names:
            until_submitted(service, name)
        posts = service.submissions()["posts"]
        under_way = submit(short, 1), submit(long, 7)
        until_submitted(service, posts=posts + 2)
        stop(server)
        heard = {name: stream.result() for name, stream in streams.items()}
    client.close()
    kept = Database(f"sqlite:///{state_of(server)}")
    ids = [each.id for each in heard.values()] + [id for _, id in under_way]
    found = Stopped(
        heard,
        (waits, waiting.result()),
        *under_way,
        recorded={id: kept.submissions(id) for id in ids},
        ended={turn for turn, ended in kept.turns().items() if ended},
    )
    server.start()
    return found


def test_jobs_run_on_when_the_server_stops_with_streams_open_and_are_taken_up_again(
    stopped: Stopped, service: LocalSupervisor, kept: Database, server: ServerProcess, new_client: NewClient
) -> None:
    for name, heard in stopped.streams.items():
        assert turn_of(heard.id) not in stopped.ended
        kept.wait_ended(heard.id)
        (job,) = service.submissions(name)["jobs"]
        assert job["status"] == "completed"
        assert text_of(new_client(server).get(heard.id)) == f"About {name}"
        assert stopped.recorded[heard.id] == kept.submissions(heard.id) == 1


def test_a_client_that_waits_when_the_server_stops_is_told_to_come_back(
    stopped: Stopped, service: LocalSupervisor, server: ServerProcess, new_client: NewClient
) -> None:
    request, answer = stopped.waited
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert int(answer.headers["retry-after"]) > 0
    assert text_of(new_client(server).ask(request)) == "Worth it."
    assert service.submissions(request["input"].partition(" [[")[0])["count"] == 1


def test_a_submit_that_is_under_way_is_recorded_before_the_server_ends(
    stopped: Stopped, service: LocalSupervisor, kept: Database, server: ServerProcess, new_client: NewClient
) -> None:
    name, id = stopped.short
    assert stopped.recorded[id] == 1
    kept.wait_ended(id)
    assert text_of(new_client(server).get(id)) == "Kept."
    assert service.submissions(name)["count"] == 1


def test_a_submit_that_takes_longer_than_the_server_may_is_asked_about(
    stopped: Stopped, service: LocalSupervisor, server: ServerProcess, new_client: NewClient
) -> None:
    name, id = stopped.long
    assert stopped.recorded[id] == 0
    found = new_client(server).finished(id)
    (request,) = requests_in(found)
    assert request["name"] == "resubmit_job"
    until_submitted(service, name)  # It came into being all the same, and nobody sent it again.
    given_up = new_client(server).ask({"input": [allow(request, approve=False)], "previous_response_id": id})
    assert given_up["status"] == "failed"
    assert service.submissions(name)["count"] == 1


def test_a_running_job_is_cancelled_where_the_service_can(
    server: ServerProcess, service: LocalSupervisor, new_client: NewClient
) -> None:
    name = f"Cancel {new_thread()}"
    client = new_client(server)
    id = client.ask({"input": question(name, duration_s=60), "background": True})["id"]
    until_submitted(service, name)
    answer = client.cancel(id)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
    (job,) = service.submissions(name)["jobs"]
    assert job["status"] == "cancelled"
    assert client.get(id)["status"] == "cancelled"
    assert client.cancel(id).json()["status"] == "cancelled"


def test_a_service_that_cannot_cancel_is_told_of_and_the_job_goes_on(
    server: ServerProcess, service: LocalSupervisor, new_client: NewClient
) -> None:
    name = f"No cancel {new_thread()}"
    client = new_client(server)
    asked = question(name, cancel=501, duration_s=1, reply="Done all the same.")
    id = client.ask({"input": asked, "background": True})["id"]
    until_submitted(service, name)
    answer = client.cancel(id)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "cancel_not_supported")
    assert text_of(client.finished(id)) == "Done all the same."
    assert service.submissions(name)["count"] == 1
