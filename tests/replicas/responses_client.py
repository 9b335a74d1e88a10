"""A client of the agent server that sends exactly what it is told, and keeps exactly what it was sent."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import httpx

Event = dict[str, Any]
Item = dict[str, Any]

PATIENCE_S = 60.0
BROKEN = (httpx.TransportError,)
"""What a client feels when the server that it talks to is killed."""


def new_thread() -> str:
    """Name of a thread that nobody has used."""
    return f"t-{uuid.uuid4().hex[:12]}"


def question(text: str, **behaviour: Any) -> str:
    """A question that tells the local supervisor how to behave."""
    return f"{text} [[local: {json.dumps(behaviour)}]]" if behaviour else text


def many_items(count: int = 20) -> list[Item]:
    """Items for a job: messages and hosted calls; some of the texts are cut into several deltas."""
    items: list[Item] = []
    for number in range(count):
        if number % 4 == 1:
            items.append(
                {"type": "function_call", "call_id": f"h{number}", "name": "hosted", "arguments": "{}"}
            )
        elif number % 4 == 2:
            items.append(
                {"type": "function_call_output", "call_id": f"h{number - 1}", "output": f"o{number}"}
            )
        else:
            text = f"Part {number}. " + "word " * (number * 15)
            content = [{"type": "output_text", "text": text}]
            items.append({"type": "message", "role": "assistant", "content": content})
    return items


def user(text: str) -> Item:
    """A message of a person, as the chat UI sends it."""
    return {"role": "user", "content": [{"type": "input_text", "text": text}]}


def text_of(response: dict[str, Any]) -> str:
    """What a response says."""
    parts = [
        part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]
    ]
    return "\n".join(parts)


def requests_in(response: dict[str, Any]) -> list[Item]:
    """The approval requests of a response."""
    return [item for item in response["output"] if item["type"] == "mcp_approval_request"]


def allow(request: Item, approve: bool = True) -> Item:
    """The answer to an approval request, as the chat UI sends it."""
    id = request["id"]
    return {"type": "mcp_approval_response", "id": id, "approval_request_id": id, "approve": approve}


@dataclass
class Heard:
    """What a stream has said so far.

    Attributes:
        events: Its events, keep-alives included.
        done: Whether it ended as streams end.
    """

    events: list[Event] = field(default_factory=list)
    done: bool = False

    @property
    def id(self) -> str:
        """The public id, which the first event tells."""
        return str(self.events[0]["response"]["id"])

    @property
    def numbered(self) -> list[Event]:
        """The events that count, keep-alives left out."""
        found: list[Event] = []
        for event in self.events:
            if not found or event["sequence_number"] > found[-1]["sequence_number"]:
                found.append(event)
        return found

    @property
    def last(self) -> int:
        """Number of the last event; -1 before any."""
        return int(self.events[-1]["sequence_number"]) if self.events else -1

    @property
    def response(self) -> dict[str, Any]:
        """The response that the last event holds."""
        found: dict[str, Any] = self.events[-1]["response"]
        return found


class ResponsesClient:
    """Talks to one server, as one caller.

    Args:
        url: The server.
        headers: What goes with every request, such as the headers of the Apps proxy.
    """

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self._headers = headers or {}
        self.http = httpx.Client(base_url=url, headers=self._headers, timeout=PATIENCE_S, trust_env=False)

    def post(self, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
        """A POST that is waited for."""
        return self.http.post("/responses", json=body, headers=headers)

    def ask(self, body: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
        """A POST that has to be let in; the response."""
        answer = self.post(body, headers)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        found: dict[str, Any] = answer.json()
        return found

    def get(self, id: str) -> dict[str, Any]:
        """A response as it is now."""
        answer = self.http.get(f"/responses/{id}")
        assert answer.status_code == 200, (answer.status_code, answer.text)
        found: dict[str, Any] = answer.json()
        return found

    def finished(self, id: str) -> dict[str, Any]:
        """A response at its end or at its pause; followed as events, which carries it on."""
        return self.follow(id).response

    def follow(
        self, id: str, after: int = -1, *, until: Callable[[Event], bool] = lambda event: False
    ) -> Heard:
        """The events of a response from after a number on, until something happens or they end."""
        params = {"stream": "true", "starting_after": str(after)}
        with self.http.stream("GET", f"/responses/{id}", params=params) as answer:
            return self.read(answer, until)

    def stream(
        self,
        body: dict[str, Any],
        headers: dict[str, str] | None = None,
        *,
        until: Callable[[Event], bool] = lambda event: False,
    ) -> Heard:
        """A POST that is answered with events, read until something happens or they end."""
        with self.send(body, headers) as answer:
            return self.read(answer, until)

    def send(
        self, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> AbstractContextManager[httpx.Response]:
        """A POST that wants events, to be read with :meth:`read`."""
        return self.http.stream("POST", "/responses", json={**body, "stream": True}, headers=headers)

    def read(self, answer: httpx.Response, until: Callable[[Event], bool] = lambda event: False) -> Heard:
        """What a stream says until something happens, it ends, or it breaks."""
        heard = Heard()
        if answer.status_code != 200:
            answer.read()
            raise AssertionError((answer.status_code, answer.text))
        try:
            for event in _events(answer, heard):
                heard.events.append(event)
                if until(event):
                    break
        except BROKEN:  # The server is gone: what was heard is what there is.
            pass
        return heard

    def cancel(self, id: str) -> httpx.Response:
        """Cancel a response."""
        return self.http.post(f"/responses/{id}/cancel")

    def close(self) -> None:
        """Hang up."""
        self.http.close()


def _events(answer: httpx.Response, heard: Heard) -> Iterator[Event]:
    for line in answer.iter_lines():
        if line == "data: [DONE]":
            heard.done = True
        elif line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            if "type" in event:
                yield event
