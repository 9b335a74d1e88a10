"""What was told under an id stays told: later events follow the earlier ones, whatever happens in the thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.served import Served, serving_app

Event = dict[str, Any]

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app, with a service whose jobs are done at once."""
    folder: Path = tmp_path_factory.mktemp("state")
    with (
        LocalSupervisor(folder / "service", {"instant": True}) as service,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(folder)
        patch.setenv("DATABRICKS_HOST", service.url)
        patch.setenv("DATABRICKS_TOKEN", "x")
        url = f"sqlite:///{folder}/state.sqlite"
        with serving_app(backend="supervisor", state_url=url, tools="demonstration") as running:
            yield running


class Story:
    """One thread, and everything that was told of it.

    Attributes:
        told: The events of each id, as they were last told.
    """

    def __init__(self, server: Served, name: str) -> None:
        self.server, self.name = server, name
        self.told: dict[str, list[Event]] = {}

    def ask(self, text: str, behaviour: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Ask a question; the response at its end or pause."""
        directive = f" [[local: {json.dumps(behaviour)}]]" if behaviour else ""
        return self.post([{"role": "user", "content": text + directive}], **more)

    def answer(self, *ids: str, approve: bool = True) -> dict[str, Any]:
        """Answer approval requests."""
        return self.post(
            [{"type": "mcp_approval_response", "approval_request_id": id, "approve": approve} for id in ids]
        )

    def post(self, items: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Post items; what was told before must still hold."""
        thread = {"custom_inputs": {"thread_id": self.name}}
        answer = self.server.ask({"input": items, **thread, **more})
        body: dict[str, Any] = answer.json()
        assert answer.status_code == 200, body
        self.told.setdefault(body["id"], [])
        self.compare()
        return body

    def compare(self) -> None:
        """Every id tells what it told before, and perhaps more."""
        for id, before in self.told.items():
            now = self.events(id)
            assert _settled(now)[: len(before)] == before, id
            body = self.server.http.get(f"/responses/{id}").json()
            assert now[-1]["response"] == body
            self.told[id] = _settled(now)
            for after in range(-1, len(before), 3):
                assert _settled(self.events(id, after)) == self.told[id][after + 1 :]

    def events(self, id: str, after: int = -1) -> list[Event]:
        """The events of an id."""
        params = {"stream": "true", "starting_after": str(after)}
        lines = self.server.http.get(f"/responses/{id}", params=params).text.split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def _settled(events: list[Event]) -> list[Event]:
    """What must not change: without events that repeat a number, and without what says how things are now."""
    first = [
        event
        for n, event in enumerate(events)
        if not n or event["sequence_number"] > events[n - 1]["sequence_number"]
    ]
    settled: list[Event] = json.loads(json.dumps(first))
    for event in settled:
        if event["type"] == "response.completed":
            for holder in (event, event["response"]):
                holder["custom_outputs"] = {"thread_id": holder["custom_outputs"]["thread_id"]}
            event["response"].pop("usage", None)
    return settled


def requested(body: dict[str, Any]) -> list[str]:
    """Ids of the approval requests in a response."""
    return [item["id"] for item in body["output"] if item["type"] == "mcp_approval_request"]


def approvals(number: int) -> dict[str, Any]:
    requests = [{"name": "publish", "server_label": "reports", "arguments": {"n": n}} for n in range(number)]
    return {"approvals": requests}


@pytest.fixture
def story(server: Served, request: pytest.FixtureRequest) -> Story:
    return Story(server, request.node.name)


def test_questions_and_answers(story: Story) -> None:
    for text in ("One", "Two", "Three"):
        assert story.ask(text, {"reply": f"{text}. " * 200})["status"] == "completed"
    assert len(story.told) == 3


@pytest.mark.parametrize("approve", [True, False])
def test_approvals_that_are_answered_at_once(story: Story, approve: bool) -> None:
    asked = story.ask("Publish", approvals(2))
    answered = story.answer(*requested(asked), approve=approve)
    assert answered["id"] != asked["id"]
    assert answered["custom_outputs"]["pending"] == []
    story.ask("Thanks")
    assert len(story.told) == 3


def test_approvals_that_are_answered_one_by_one(story: Story) -> None:
    asked = story.ask("Publish", approvals(3))
    first, second, third = requested(asked)
    one = story.answer(first)
    assert [each["id"] for each in one["custom_outputs"]["pending"]] == [second, third]
    assert story.answer(third)["id"] == one["id"]
    last = story.answer(second, approve=False)
    assert (last["id"], last["custom_outputs"]["pending"]) == (one["id"], [])
    story.ask("Thanks")


def test_an_approval_that_is_replaced_by_a_message(story: Story) -> None:
    asked = story.ask("Publish", approvals(2))
    story.ask("Never mind")
    story.ask("Something else")
    assert story.told[asked["id"]]


def test_an_answer_in_part_that_is_replaced_by_a_message(story: Story) -> None:
    asked = story.ask("Publish", approvals(2))
    story.answer(requested(asked)[0])
    story.ask("Never mind")


def test_a_question_about_a_submission(story: Story) -> None:
    asked = story.ask("Pay", {"create_errors": ["drop"]})
    assert requested(asked) == ["resubmit_1"]
    answered = story.answer("resubmit_1")
    assert answered["status"] == "completed"
    assert requested(answered) == []
    story.ask("Thanks")


def test_a_question_about_a_submission_that_is_refused(story: Story) -> None:
    story.ask("Pay twice", {"create_errors": ["drop"]})
    assert story.answer("resubmit_1", approve=False)["status"] == "failed"
    story.ask("Thanks")


def test_calls_of_the_client(story: Story) -> None:
    called = story.ask("Weather", {"calls": [{"name": "weather", "arguments": {}}]}, tools=[WEATHER])
    (call,) = [item for item in called["output"] if item["type"] == "function_call"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    story.post([output], tools=[WEATHER])
    story.ask("Thanks")
    assert len(story.told) == 3


def test_jobs_that_fail(story: Story) -> None:
    for status in ("failed", "cancelled", "incomplete"):
        assert story.ask(status, {"final_status": status, "reply": "Part"})["status"] == status
    story.ask("Thanks")


def test_a_conversation_that_is_edited(story: Story) -> None:
    first = story.ask("One", {"reply": "First."})
    second = story.ask("Two", {"reply": "Second."})
    edited = story.ask("Edited", {"reply": "Other."}, previous_response_id=first["id"])
    assert story.server.http.get(f"/responses/{second['id']}").json()["output"] == second["output"]
    again = story.ask("Anew", {"reply": "New."}, previous_response_id=edited["id"])
    assert len({first["id"], second["id"], edited["id"], again["id"]}) == 4
