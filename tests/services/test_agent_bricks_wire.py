"""The stand-in of Agent Bricks keeps to the wire that it stands in for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.service_runner import PATIENCE_S
from tests.support.service_stories import Service

AT = "/api/invocations"


@pytest.fixture
def client(agent_bricks: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=agent_bricks.base_url, trust_env=False, timeout=60) as found:
        yield found


@pytest.fixture
def jobs(agent_bricks: Service) -> Callable[[str], list[str]]:
    def of(reference: str) -> list[str]:
        file = agent_bricks.folder / f"{reference}.jobs"
        return file.read_text().splitlines() if file.exists() else []

    return of


def new_id() -> str:
    return str(uuid.uuid4())


def question(text: str, reference: str, **more: Any) -> dict[str, Any]:
    return {"id": new_id(), "input": f"{text} (ref {reference})", **more}


def finished(client: httpx.Client, id: str) -> dict[str, Any]:
    """The state of an invocation once it is over."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        state: dict[str, Any] = client.get(f"{AT}/{id}").json()
        if state["status"] in ("completed", "failed"):
            return state
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_id_is_an_idempotency_key(client: httpx.Client, jobs: Callable[[str], list[str]]) -> None:
    body = question("Say hello", "key")
    first = client.post(AT, json=body)
    assert first.status_code == 202
    assert first.json()["status_url"] == f"{AT}/{body['id']}"
    assert finished(client, body["id"])["output"]["messages"][0]["content"] == "hello. Turn 1."
    again = client.post(AT, json=body)
    assert (again.status_code, again.json()["status"]) == (202, "completed")
    assert client.post(AT, json={**body, "input": "Say goodbye"}).status_code == 409
    assert jobs("key") == [body["id"]]


@pytest.mark.parametrize(
    "body",
    [{"input": "Say x"}, {"id": "1", "input": "Say x"}, {"id": new_id(), "input": "Say x", "model": "m"}],
)
def test_other_keys_and_ids_that_are_no_uuid_are_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    assert client.post(AT, json=body).status_code == 422


def test_a_session_runs_one_invocation_at_a_time(client: httpx.Client, agent_bricks: Service) -> None:
    session = new_id()
    first = question("Wait at bricks-gate, then say one", "one", session_id=session)
    second = question("Say two", "two", session_id=session)
    client.post(AT, json=first)
    reached, deadline = agent_bricks.folder / "bricks-gate.reached", time.monotonic() + PATIENCE_S
    while not reached.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.post(AT, json=second)
    states = [client.get(f"{AT}/{body['id']}").json()["status"] for body in (first, second)]
    assert states == ["active", "queued"]
    (agent_bricks.folder / "bricks-gate").touch()
    assert finished(client, second["id"])["output"]["messages"][0]["content"] == "two. Turn 2."


def test_an_interrupt_is_answered_by_a_new_invocation(client: httpx.Client, agent_bricks: Service) -> None:
    session = new_id()
    body = question("Buy milk", "interrupts", session_id=session)
    client.post(AT, json=body)
    output = finished(client, body["id"])["output"]
    assert output["status"] == "interrupted"
    assert output["interrupt"]["action_requests"][0]["name"] == "buy"
    resume = {
        "id": new_id(),
        "session_id": session,
        "input": {"resume": {"decisions": [{"type": "approve"}]}},
    }
    for _ in range(2):
        client.post(AT, json=resume)
        assert finished(client, resume["id"])["output"]["messages"][0]["content"] == "did buy milk. Turn 1."
    assert (agent_bricks.folder / "interrupts.effects").read_text() == "buy milk\n"


def test_events_are_numbered_and_can_be_followed_from_any(client: httpx.Client) -> None:
    body = question("Say hello", "events")
    client.post(AT, json=body)
    finished(client, body["id"])
    assert [line for line in client.get(f"{AT}/{body['id']}/events").text.splitlines() if "id: " in line] == [
        "id: 1",
        "id: 2",
    ]
    rest = client.get(f"{AT}/{body['id']}/events", params={"after": 1}).text
    assert rest.startswith("id: 2\n")
    assert "invocation.completed" in rest


def test_a_failure_has_no_reason_and_nothing_can_be_cancelled(client: httpx.Client) -> None:
    body = question("Dance", "failures")
    client.post(AT, json=body)
    state = finished(client, body["id"])
    assert (state["status"], "output" in state) == ("failed", False)
    assert client.post(f"{AT}/{body['id']}/cancel").status_code == 404
    assert client.get(f"{AT}/{new_id()}").status_code == 404
    assert client.get(AT).status_code == 405
