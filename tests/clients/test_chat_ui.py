"""Databricks' AI SDK provider and the `ai` package, in a real Node, as the chat UI of Databricks' templates has them.

What the UI's server and its browser side do is in `node/chat.mjs`; every conversation here is really posted.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.clients.chat import Chat, allow, chat, deny, say
from tests.support.local_supervisor_process import RESPONSES, LocalSupervisor
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.usefixtures("node")

PUBLISH = {"name": "publish", "server_label": "reports", "arguments": {"quarter": "2026-Q3"}}
NOTIFY = {"name": "notify", "server_label": "mail", "arguments": {"to": "all"}}


def message(text: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    """A message of the agent."""
    part = {"type": "output_text", "text": text, "annotations": list(annotations)}
    return {"type": "message", "role": "assistant", "content": [part]}


def submitted(service: LocalSupervisor, question: str) -> int:
    """How many jobs a question has become, follow-ups included."""
    return int(service.submissions(question)["count"])


def nothing_wrong(had: Chat) -> None:
    """No error was shown, and nothing is still being drawn."""
    assert had.errors == []
    assert {part.get("state", "done") for part in had.parts} & {"streaming", "input-streaming"} == set()
    assert [part for part in had.parts if part["type"] == "data-error"] == []


def test_a_turn_is_streamed(server: ServerProcess, service: LocalSupervisor) -> None:
    had = chat(
        server.url, say("Alpha: greet me", reply="Hello there."), say("Alpha: once more", reply="Again.")
    )
    nothing_wrong(had)
    assert had.texts == ["Hello there.", "Again."]
    assert [post["body"]["stream"] for post in had.posts] == [True, True]
    assert submitted(service, "Alpha: greet me") == submitted(service, "Alpha: once more") == 1


def test_a_hosted_tool_is_shown_with_its_output(server: ServerProcess, service: LocalSupervisor) -> None:
    call = {
        "type": "function_call",
        "call_id": "c1",
        "name": "system__ai__sql",
        "arguments": '{"query": "1"}',
    }
    output = {"type": "function_call_output", "call_id": "c1", "output": "one row"}
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Count them."}]}
    items = [thought, call, output, message("It is one.")]
    had = chat(server.url, say("Bravo: how many?", items=items), say("Bravo: and now?", reply="Still one."))
    nothing_wrong(had)
    tool = had.tool("system__ai__sql")
    assert (tool["state"], tool["input"], tool["output"]) == ("output-available", {"query": "1"}, "one row")
    assert [part["text"] for part in had.parts if part["type"] == "reasoning"] == ["Count them."]
    assert had.texts == ["It is one.", "Still one."]
    assert submitted(service, "Bravo: how many?") == submitted(service, "Bravo: and now?") == 1


def test_an_approval_goes_on_where_it_stopped(server: ServerProcess, service: LocalSupervisor) -> None:
    question = say("Charlie: publish it", approvals=[PUBLISH], rounds=[{"reply": "Published."}])
    had = chat(server.url, question, allow("publish"), say("Charlie: thanks", reply="Welcome."))
    nothing_wrong(had)
    asked, ran = (part for part in had.parts if part.get("toolName") == "publish")
    assert (asked["state"], asked["approval"]["approved"]) == ("approval-responded", True)
    assert (ran["state"], ran["output"]) == (
        "output-available",
        'publish was run with {"quarter": "2026-Q3"}',
    )
    assert had.texts == ["Published.", "Welcome."]
    assert submitted(service, "Charlie: publish it") == 2  # The question, and the follow-up.
    assert submitted(service, "Charlie: thanks") == 1


def test_a_refusal_is_told_with_its_reason(server: ServerProcess, service: LocalSupervisor) -> None:
    question = say("Delta: publish it", approvals=[PUBLISH], rounds=[{"reply": "Left alone."}])
    had = chat(server.url, question, deny("publish", reason="not today", send=True))
    nothing_wrong(had)
    assert had.parts[1]["state"] == "output-denied"
    assert had.texts == ["Left alone."]
    (job, follow_up) = service.submissions("Delta: publish it")["jobs"]
    answers = [item for item in sent_to(service, follow_up) if item.get("type") == "mcp_approval_response"]
    assert [(answer["approve"], answer["reason"]) for answer in answers] == [(False, "not today")]
    assert job["id"] != follow_up["id"]


def test_a_refusal_without_a_word_ends_with_the_next_question(
    server: ServerProcess, service: LocalSupervisor
) -> None:
    question = say("Echo: publish it", approvals=[PUBLISH])
    had = chat(server.url, question, deny("publish"), say("Echo: what else?", reply="Nothing else."))
    nothing_wrong(had)
    assert had.texts == ["Nothing else."]
    assert len(had.posts) == 2
    assert submitted(service, "Echo: publish it") == submitted(service, "Echo: what else?") == 1


def test_of_two_approvals_the_first_waits_for_the_second(
    server: ServerProcess, service: LocalSupervisor
) -> None:
    question = say("Foxtrot: publish it", approvals=[PUBLISH, NOTIFY], rounds=[{"reply": "Both done."}])
    had = chat(server.url, question, allow("publish"), allow("notify"))
    nothing_wrong(had)
    assert had.texts == ["Both done."]
    assert len(had.posts) == 3
    assert submitted(service, "Foxtrot: publish it") == 2


def test_several_messages_are_drawn_one_after_the_other(server: ServerProcess) -> None:
    two_parts = message("Third.")
    two_parts["content"] += message("And its end.")["content"]
    had = chat(server.url, say("Golf: tell", items=[message("First."), message("Second."), two_parts]))
    nothing_wrong(had)
    assert had.texts == ["First.", "Second.", "Third.\n\nAnd its end."]


def test_a_long_text_is_drawn_once(server: ServerProcess, service: LocalSupervisor) -> None:
    had = chat(server.url, say("Hotel: tell all", reply_words=3000))
    nothing_wrong(had)
    (text,) = had.texts
    (job,) = service.submissions("Hotel: tell all")["jobs"]
    assert len(text.split()) == 3000
    assert text == retrieved(service, job)[-1]["content"][0]["text"]


def test_links_are_shown_and_files_do_no_harm(server: ServerProcess) -> None:
    link = {
        "type": "url_citation",
        "url": "https://example.com",
        "title": "A",
        "start_index": 0,
        "end_index": 2,
    }
    file = {"type": "file_citation", "file_id": "f", "filename": "f.txt", "index": 1}
    had = chat(server.url, say("India: cite", items=[message("So it is.", file, link)]))
    nothing_wrong(had)
    assert had.texts == ["So it is."]
    sources = [(part["url"], part["title"]) for part in had.parts if part["type"] == "source-url"]
    assert sources == [("https://example.com", "A")]


@pytest.mark.parametrize("conversation", [True, False], ids=["named", "nameless"])
def test_a_function_of_the_client_runs_once(
    server: ServerProcess, service: LocalSupervisor, conversation: bool
) -> None:
    asked = f"Juliett: time, {'named' if conversation else 'unnamed'}"
    question = say(
        asked, calls=[{"name": "clock", "arguments": {"zone": "UTC"}}], rounds=[{"reply": "Noon."}]
    )
    had = chat(
        server.url, question, hosted=False, conversation=conversation, functions={"clock": {"now": "12:00"}}
    )
    nothing_wrong(had)
    assert had.runs == [{"name": "clock", "input": {"zone": "UTC"}}]
    assert had.texts == ["Noon."]
    _job, follow_up = service.submissions(asked)["jobs"]
    (output,) = (item for item in sent_to(service, follow_up) if item.get("type") == "function_call_output")
    assert output["output"] == '{"now":"12:00"}'


def test_an_answer_is_regenerated(server: ServerProcess, service: LocalSupervisor) -> None:
    had = chat(
        server.url, say("Kilo: say it", reply="Said."), {"regenerate": True}, say("Kilo: next", reply="Yes.")
    )
    nothing_wrong(had)
    assert had.texts == ["Said.", "Yes."]
    assert submitted(service, "Kilo: say it") == 2


def test_an_error_before_any_text_and_the_second_post_are_one_job(
    server: ServerProcess, service: LocalSupervisor
) -> None:
    had = chat(server.url, say("Lima: try", reply="Whole again.", retrieve_errors=[401, 401, 401]))
    assert [(post["body"]["stream"], post["status"]) for post in had.posts] == [(True, 200), (False, 200)]
    assert "does not accept the credentials" in had.errors[0]
    assert had.texts == ["Whole again."]
    assert submitted(service, "Lima: try") == 1


def test_the_second_post_reads_whatever_the_answer_holds(
    server: ServerProcess, service: LocalSupervisor
) -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Look it up."}]}
    call = {"type": "function_call", "call_id": "c1", "name": "system__ai__sql", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "one row"}
    link = {"type": "url_citation", "url": "https://example.com", "title": "A"}
    file = {"type": "file_citation", "file_id": "f", "filename": "f.txt", "index": 1}
    items = [thought, call, output, message("So it is.", file, link)]
    had = chat(server.url, say("Oscar: try", items=items, retrieve_errors=[401, 401, 401]))
    assert [post["status"] for post in had.posts] == [200, 200]
    assert had.texts == ["So it is."]
    assert (had.tool("system__ai__sql")["output"], submitted(service, "Oscar: try")) == ("one row", 1)


def test_a_job_that_failed_before_any_text_is_shown_as_an_error(
    server: ServerProcess, service: LocalSupervisor
) -> None:
    failed = {"final_status": "failed", "error": {"code": "broken", "message": "The tool broke."}}
    had = chat(server.url, say("Mike: fail", items=[], **failed))
    (shown,) = (part["data"] for part in had.parts if part["type"] == "data-error")
    assert "The tool broke." in shown
    assert submitted(service, "Mike: fail") == 1


def test_a_job_that_failed_after_text_shows_both(server: ServerProcess, service: LocalSupervisor) -> None:
    failed = {"final_status": "failed", "error": {"code": "broken", "message": "The tool broke."}}
    had = chat(server.url, say("November: fail late", reply="So far", **failed))
    assert had.texts == ["So far"]
    assert "The tool broke." in had.errors[0]
    assert len(had.posts) == 1
    assert submitted(service, "November: fail late") == 1


def sent_to(service: LocalSupervisor, job: dict[str, Any]) -> list[dict[str, Any]]:
    """The input that a job was created with."""
    sent: list[dict[str, Any]] = service.job(job["id"])["request"]["input"]
    return sent


def retrieved(service: LocalSupervisor, job: dict[str, Any]) -> list[dict[str, Any]]:
    """The output of a job, as the service gives it."""
    answer = httpx.get(
        f"{service.url}{RESPONSES}/{job['id']}", headers={"Authorization": "Bearer test"}, trust_env=False
    )
    output: list[dict[str, Any]] = answer.json()["output"]
    return output
