"""A job outlives the server that began it: another one answers the same id, and the events go on."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

from tests.replicas.concurrency import at_once
from tests.replicas.conftest import NewClient
from tests.replicas.database import Database, turn_of
from tests.replicas.responses_client import (
    Heard,
    ResponsesClient,
    many_items,
    new_thread,
    question,
    text_of,
    user,
)
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.server_process import ServerProcess


def test_jobs_of_a_killed_server_are_finished_by_whoever_is_asked_or_by_itself_when_it_is_back(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient, database: Database
) -> None:
    a, b, c = replicas
    thread = new_thread()
    asked, left = f"Hand over {thread}", f"Leave {thread}"
    body = {
        "input": [user(question(asked, items=many_items(), duration_s=3))],
        "context": {"conversation_id": thread},
    }
    alone = new_client(a).ask(
        {"input": question(left, duration_s=5, reply="Back again."), "background": True}
    )
    killed = threading.Event()

    def kill_after_some(event: dict[str, Any]) -> bool:
        if event["sequence_number"] >= 12 and not killed.is_set():
            killed.set()
            a.kill()
        return False

    first = new_client(a).stream(body, until=kill_after_some)
    assert killed.is_set()
    assert not first.done
    try:
        second = new_client(b).follow(
            first.id, first.last, until=lambda event: event["sequence_number"] >= 40
        )
        third = new_client(c).follow(first.id, second.last)
        assert third.done
        joined = Heard([*first.events, *second.events, *third.events]).numbered
        assert [event["sequence_number"] for event in joined] == list(range(len(joined)))
        assert joined == new_client(b).follow(first.id).numbered
        assert joined[-1]["type"] == "response.completed"
        assert new_client(c).get(first.id) == joined[-1]["response"]
        assert "Part 19." in text_of(third.response)
        assert service.submissions(asked)["count"] == 1
        # Nobody has asked for the other one.
        assert not database.turns()[turn_of(alone["id"])]
    finally:
        a.start()
    assert new_client(a).follow(first.id).numbered == joined
    database.wait_ended(alone["id"])
    assert text_of(new_client(b).get(alone["id"])) == "Back again."
    assert service.submissions(left)["count"] == 1


def test_an_id_that_was_given_out_is_good_though_the_server_dies_at_that_moment(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    a, b, _ = replicas
    asked = [f"At once {new_thread()}" for _ in range(8)]
    clients = [new_client(a) for _ in asked]

    def begin(client: ResponsesClient, text: str) -> str:
        body = {"input": question(text, reply="Kept.", accept_delay_s=1), "background": True}
        return str(client.ask(body)["id"])

    ids = at_once([partial(begin, client, text) for client, text in zip(clients, asked, strict=True)])
    a.kill()
    try:
        for id, text in zip(ids, asked, strict=True):
            end = new_client(b).finished(id)
            assert end["status"] == "completed"
            if not text_of(end):  # Killed in the middle of the POST: that is asked about.
                assert [(item["type"], item["name"]) for item in end["output"]] == [
                    ("mcp_approval_request", "resubmit_job")
                ]
            else:
                assert text_of(end) == "Kept."
            assert service.submissions(text)["count"] <= 1
    finally:
        a.start()


def test_a_job_that_another_server_runs_can_be_cancelled_through_any(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    name = f"Cancel elsewhere {new_thread()}"
    body = {"input": question(name, items=many_items(100), duration_s=100)}
    first = new_client(replicas[0]).stream(
        {**body, "background": True}, until=lambda event: event["sequence_number"] > 5
    )
    answer = new_client(replicas[1]).cancel(first.id)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
    assert new_client(replicas[0]).finished(first.id)["status"] == "cancelled"


def test_an_id_is_known_everywhere_as_soon_as_it_is_told(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    a, b = new_client(replicas[0]), new_client(replicas[1])
    for _ in range(5):
        name = f"At once {new_thread()}"
        told = a.stream({"input": question(name, reply="Here.")}, until=lambda event: True)
        assert text_of(b.follow(told.id).response) == "Here."
        assert service.submissions(name)["count"] == 1
