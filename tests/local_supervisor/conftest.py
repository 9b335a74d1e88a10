"""One service for the tests that only talk to it, and a client that speaks the contract."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.local_supervisor_process import RESPONSES, LocalSupervisor

Item = dict[str, Any]


class Client:
    """Creates, retrieves and cancels with plain HTTP, which hides nothing and repeats nothing."""

    def __init__(self, service: LocalSupervisor) -> None:
        self.service = service
        self._http = httpx.Client(
            base_url=service.url + RESPONSES,
            headers={"authorization": "Bearer x"},
            timeout=10,
            trust_env=False,
        )

    def post(self, items: list[Item], headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        request = {"model": "m", "background": True, "stream": False, "input": items, **body}
        return self._http.post(self.service.url + RESPONSES, json=request, headers=headers)

    def create(self, items: list[Item], **body: Any) -> Item:
        answer = self.post(items, **body)
        assert answer.status_code == 200, answer.text
        created: Item = answer.json()
        return created

    def get(self, response_id: str) -> httpx.Response:
        return self._http.get(f"/{response_id}")

    def retrieve(self, response_id: str) -> Item:
        answer = self.get(response_id)
        assert answer.status_code == 200, answer.text
        found: Item = answer.json()
        return found

    def cancel(self, response_id: str) -> httpx.Response:
        return self._http.post(f"/{response_id}/cancel")

    def finish(self, response_id: str) -> Item:
        while (response := self.retrieve(response_id))["status"] in ("queued", "in_progress"):
            time.sleep(0.02)
        return response

    def run(self, items: list[Item], **body: Any) -> Item:
        return self.finish(self.create(items, **body)["id"])

    def close(self) -> None:
        self._http.close()


def user(text: str, **behaviour: Any) -> Item:
    """A user message, with a directive."""
    directive = f" [[local: {json.dumps(behaviour)}]]" if behaviour else ""
    return {"role": "user", "content": text + directive}


def text_of(response: Item) -> str:
    """The text of the last message."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    text: str = messages[-1]["content"][0]["text"]
    return text


def sendable(item: Item) -> Item:
    """An output item as it may be sent back."""
    return {key: value for key, value in item.items() if key != "status" and value is not None}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSupervisor]:
    with LocalSupervisor(tmp_path_factory.mktemp("service"), {"duration_s": 0.1}) as running:
        yield running


@pytest.fixture
def client(service: LocalSupervisor) -> Iterator[Client]:
    service.reset()
    service.clear_behaviour()
    made = Client(service)
    yield made
    made.close()


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[LocalSupervisor]:
    """A service of the test's own, to be killed."""
    with LocalSupervisor(tmp_path / "data", {"duration_s": 0.1}) as running:
        yield running
