"""A server that is told to stop detaches: every job runs on, and a server that starts takes it up by itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.local_supervisor_process import LocalSupervisor
from tests.replicas.conftest import NewWire
from tests.replicas.rows import Database
from tests.replicas.wire import PATIENCE_S, allow, new_thread, question, requests_in, text_of
from tests.server_process import ServerProcess

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
    return Database(f"sqlite:///{server.directory / '.supervisor' / 'state.sqlite'}")


def stop(server: ServerProcess) -> None:
    """SIGTERM; it has to end by itself."""
    began = time.monotonic()
    code = server.terminate(STOPPED_WITHIN_S)
    logger.info("stopped after %.2f s with %s", time.monotonic() - began, code)
    assert code is not None, "it did not end by itself"


def submitted(service: LocalSupervisor, asked: str) -> int:
    """How many jobs there are for a question."""
    count: int = service.submissions(asked)["count"]
    return count


def until_submitted(service: LocalSupervisor, asked: str, *, posts: int | None = None) -> None:
    """Wait for the job of a question; or, with ``posts``, until so many POSTs have reached the service."""
    deadline = time.monotonic() + PATIENCE_S
    while not (submitted(service, asked) if posts is None else service.submissions()["posts"] >= posts):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_jobs_run_on_when_the_server_stops_with_streams_open_and_are_taken_up_again(
    server: ServerProcess, service: LocalSupervisor, kept: Database, wire: NewWire
) -> None:
    names = [f"Stop {new_thread()}" for _ in range(STREAMS)]
    begun = threading.Semaphore(0)

    def listen(name: str) -> Any:
        told = threading.Event()

        def tell(event: dict[str, Any]) -> bool:
            if not told.is_set():
                told.set()
                begun.release()
            return False

        asked = question(name, reply=f"About {name}", duration_s=4)
        return wire(server).stream({"input": asked}, until=tell)

    with ThreadPoolExecutor(STREAMS) as pool:
        streams: list[Future[Any]] = [pool.submit(listen, name) for name in names]
        for name in names:
            begun.acquire()
            until_submitted(service, name)
        stop(server)
        heard = [stream.result() for stream in streams]
    assert not any(kept.turns()[each.id.removeprefix("resp_")[:-2]] for each in heard)
    for name in names:
        (job,) = service.submissions(name)["jobs"]
        assert job["status"] != "cancelled"
    server.start()
    for each, name in zip(heard, names, strict=True):
        kept.wait_ended(each.id)
        (job,) = service.submissions(name)["jobs"]
        assert job["status"] == "completed"
        assert text_of(wire(server).get(each.id)) == f"About {name}"
        assert kept.submissions(each.id) == 1


def test_a_submit_that_is_under_way_is_recorded_before_the_server_ends(
    server: ServerProcess, service: LocalSupervisor, kept: Database, wire: NewWire
) -> None:
    name = f"Short {new_thread()}"
    posts = service.submissions()["posts"]
    body = {"input": question(name, accept_delay_s=1, reply="Kept."), "background": True}
    id = wire(server).ask(body)["id"]
    until_submitted(service, name, posts=posts + 1)
    stop(server)
    assert kept.submissions(id) == 1
    server.start()
    kept.wait_ended(id)
    assert text_of(wire(server).get(id)) == "Kept."
    assert submitted(service, name) == 1


def test_a_submit_that_takes_longer_than_the_server_may_is_asked_about(
    server: ServerProcess, service: LocalSupervisor, kept: Database, wire: NewWire
) -> None:
    name = f"Long {new_thread()}"
    posts = service.submissions()["posts"]
    body = {"input": question(name, accept_delay_s=7, reply="Kept."), "background": True}
    id = wire(server).ask(body)["id"]
    until_submitted(service, name, posts=posts + 1)
    stop(server)
    assert kept.submissions(id) == 0
    server.start()
    found = wire(server).finished(id)
    (request,) = requests_in(found)
    assert request["name"] == "resubmit_job"
    until_submitted(service, name)  # It came into being all the same, and nobody sent it again.
    given_up = wire(server).ask({"input": [allow(request, approve=False)], "previous_response_id": id})
    assert given_up["status"] == "failed"
    assert submitted(service, name) == 1


def test_a_running_job_is_cancelled_where_the_service_can(
    server: ServerProcess, service: LocalSupervisor, wire: NewWire
) -> None:
    name = f"Cancel {new_thread()}"
    client = wire(server)
    id = client.ask({"input": question(name, duration_s=60), "background": True})["id"]
    until_submitted(service, name)
    answer = client.cancel(id)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
    (job,) = service.submissions(name)["jobs"]
    assert job["status"] == "cancelled"
    assert client.get(id)["status"] == "cancelled"
    assert client.cancel(id).json()["status"] == "cancelled"


def test_a_service_that_cannot_cancel_is_told_of_and_the_job_goes_on(
    server: ServerProcess, service: LocalSupervisor, wire: NewWire
) -> None:
    name = f"No cancel {new_thread()}"
    client = wire(server)
    asked = question(name, cancel=501, duration_s=1, reply="Done all the same.")
    id = client.ask({"input": asked, "background": True})["id"]
    until_submitted(service, name)
    answer = client.cancel(id)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "cancel_not_supported")
    assert text_of(client.finished(id)) == "Done all the same."
    assert submitted(service, name) == 1
