"""The same request again and again, to one server or to several: one job."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.replicas.concurrency import at_once
from tests.replicas.conftest import NewClient
from tests.replicas.responses_client import ResponsesClient, new_thread, question, text_of, user
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.server_process import ServerProcess

TIMES = 5
ROUNDS = 2
Body = dict[str, Any]


@pytest.mark.parametrize("spread", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_the_same_request_five_times_at_once_is_one_job(
    spread: int, stream: bool, replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    thread = new_thread()
    asked = f"At once {thread}"
    text = question(asked, reply="Once.", duration_s=0.3)
    body = {"input": [user(text)], "context": {"conversation_id": thread}}
    clients = [new_client(replicas[number % spread]) for number in range(TIMES)]
    found = at_once([partial(_asked, client, body, stream) for client in clients])
    assert {text_of(response) for response in found} == {"Once."}
    assert len({response["id"] for response in found}) == 1
    assert service.submissions(asked)["count"] == 1


@pytest.mark.parametrize("spread", [1, 3])
def test_a_key_makes_requests_of_a_client_that_names_no_thread_one_job(
    spread: int, replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    asked = f"Keyed {key['Idempotency-Key']}"
    body = {"input": question(asked, reply="Once.")}
    clients = [new_client(replicas[number % spread]) for number in range(TIMES)]
    found = at_once([partial(client.ask, body, key) for client in clients])
    assert len({response["id"] for response in found}) == 1
    again = clients[0].ask(body, key)
    assert again == found[0]
    assert service.submissions(asked)["count"] == 1


def test_without_thread_and_key_each_request_is_a_job_of_its_own(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    asked = f"Keyless {uuid.uuid4().hex}"
    clients = [new_client(server) for server in replicas]
    found = at_once([partial(client.ask, {"input": asked}) for client in clients])
    assert len({response["custom_outputs"]["thread_id"] for response in found}) == 3
    assert service.submissions(asked)["count"] == 3


def test_a_key_of_another_request_is_refused_and_nothing_is_submitted(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    a, b = new_client(replicas[0]), new_client(replicas[1])
    a.ask({"input": "One thing"}, key)
    refused = b.post({"input": f"Another {key['Idempotency-Key']}"}, key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert service.submissions(f"Another {key['Idempotency-Key']}")["count"] == 0


def test_the_chat_ui_s_second_post_after_a_stream_that_broke_before_any_text_follows_the_same_job(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    thread = new_thread()
    asked = f"Broken {thread}"
    text = question(asked, retrieve_errors=[403], reply="Here.", duration_s=0.5)
    body = {"input": [user(text)], "context": {"conversation_id": thread}}
    first = new_client(replicas[0]).stream(body)
    assert first.done
    assert first.events[-1]["type"] == "error"
    assert not any("delta" in event for event in first.events)
    second = new_client(replicas[1]).ask({**body, "stream": False})
    assert second["id"] == first.id
    assert text_of(second) == "Here."
    assert service.submissions(asked)["count"] == 1


def test_a_failure_that_came_without_any_text_is_told_again_and_not_tried_again(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    thread = new_thread()
    asked = f"Failed {thread}"
    error = {"code": "quota", "message": "The warehouse is closed."}
    text = question(asked, final_status="failed", error=error, items=[])
    body = {"input": [user(text)], "context": {"conversation_id": thread}}
    first = new_client(replicas[0]).stream(body)
    assert [event["type"] for event in first.events[-2:]] == ["error", "response.failed"]
    second = new_client(replicas[1]).post(body)
    assert second.status_code == 424
    assert "The warehouse is closed." in second.json()["error"]["message"]
    assert service.submissions(asked)["count"] == 1


def test_a_client_that_left_before_the_end_gets_that_end_with_the_same_request(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    thread = new_thread()
    asked = f"Left {thread}"
    body = {"input": [user(question(asked, reply="Late."))], "context": {"conversation_id": thread}}
    left = new_client(replicas[0]).stream(body, until=lambda event: True)
    again = new_client(replicas[1]).stream(body)
    assert again.id == left.id
    assert text_of(again.response) == "Late."
    assert service.submissions(asked)["count"] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_are_there_at_once_are_heard_in_full(
    stream: bool, replicas: list[ServerProcess], new_client: NewClient
) -> None:
    clients = [new_client(server) for server in replicas]

    def ask(number: int) -> Body:
        body = {"input": question(f"Quick {number}", instant=True, reply=f"Number {number}")}
        return _asked(clients[number % 3], body, stream)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(40)))
    assert [text_of(response) for response in found] == [f"Number {number}" for number in range(40)]


def test_another_question_while_one_runs_is_refused_as_busy(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    thread = new_thread()
    first = {"input": question(f"Busy {thread}", duration_s=2), "custom_inputs": {"thread_id": thread}}
    running = new_client(replicas[0]).ask({**first, "background": True})
    refused = new_client(replicas[1]).post(
        {"input": f"Other {thread}", "custom_inputs": {"thread_id": thread}}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "thread_busy")
    assert int(refused.headers["retry-after"]) > 0
    assert new_client(replicas[2]).finished(running["id"])["status"] == "completed"
    assert service.submissions(f"Other {thread}")["count"] == 0


@pytest.mark.parametrize("change", ["edited", "regenerated"])
def test_a_changed_conversation_five_times_at_once_is_one_job(
    change: str, replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    clients = [new_client(replicas[number % 3]) for number in range(TIMES)]
    for _ in range(ROUNDS):
        thread = new_thread()
        first, second, edited = (f"{word} {thread}" for word in ("first", "second", "edited"))
        said = [user(question(first, reply="One."))]
        context = {"context": {"conversation_id": thread}}
        clients[0].ask({"input": said, **context})
        said += [{"role": "assistant", "content": "One."}]
        clients[1].ask({"input": [*said, user(question(second, reply="Two."))], **context})
        asked = {"edited": edited, "regenerated": second}[change]
        body = {"input": [*said, user(question(asked, reply="Three.", duration_s=0.3))], **context}
        found = at_once([partial(client.ask, body) for client in clients])
        if change == "edited":
            assert {text_of(response) for response in found} == {"Three."}
        assert len({response["id"] for response in found}) == 1
        assert service.submissions(asked)["count"] == (1 if change == "edited" else 2)


def _asked(client: ResponsesClient, body: Body, stream: bool) -> Body:
    return client.stream(body).response if stream else client.ask(body)
