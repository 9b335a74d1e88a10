"""What a strict service accepts and refuses."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.local_supervisor.conftest import Client, Item, sendable, text_of, user
from tests.support.local_supervisor_process import RESPONSES, LocalSupervisor

QUESTION = user("hello")
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "1"}
REQUEST = {
    "type": "mcp_approval_request", "id": "call_2", "name": "t", "server_label": "s", "arguments": "{}",
}  # fmt: skip
RESPONSE = {
    "type": "mcp_approval_response", "id": "call_2", "approval_request_id": "call_2", "approve": True,
}  # fmt: skip


def test_a_job_is_accepted_at_once_and_finishes_later(client: Client) -> None:
    created = client.create([user("hello", reply="hi")])

    assert created["status"] == "queued"
    assert created["output"] == []
    finished = client.finish(created["id"])
    assert finished["status"] == "completed"
    assert text_of(finished) == "hi"
    assert finished["usage"]["output_tokens"] > 0


def test_without_background_the_answer_is_the_finished_job(client: Client) -> None:
    assert client.create([user("hello", reply="hi")], background=False)["status"] == "completed"


@pytest.mark.parametrize(
    ("items", "body", "message"),
    [
        ([], {}, "input: a non-empty list"),
        ([QUESTION], {"input": "hello"}, "input: a non-empty list"),
        ([QUESTION], {"stream": True}, "stream and background"),
        ([QUESTION], {"previous_response_id": "resp_1"}, "previous_response_id"),
        (
            [QUESTION],
            {"tools": [FUNCTION], "temperature": 0.1},
            "Parameter not supported when tools are provided",
        ),
        ([QUESTION], {"tools": [{"type": "function", "name": "a b"}]}, "function tool 'name' must match"),
        ([QUESTION], {"tools": [{"type": "genie_space", "id": "1"}]}, "genie_space.id is required, nested"),
        ([QUESTION, {**CALL, "namespace": None}, OUTPUT], {}, "null is not permitted"),
        ([QUESTION, {**CALL, "caller": "x"}, OUTPUT], {}, "caller: Extra inputs"),
        ([QUESTION, {**CALL, "status": "completed"}, OUTPUT], {}, "status: Extra inputs"),
        ([QUESTION, CALL], {}, "No tool output found for function call call_1"),
        (
            [QUESTION, OUTPUT],
            {},
            "No tool call found for function call output with call_id call_1",
        ),
        ([QUESTION, {**CALL, "call_id": "c" * 65}, {**OUTPUT, "call_id": "c" * 65}], {}, "string too long"),
        ([QUESTION, {**CALL, "id": "c" * 65}, OUTPUT], {}, "string too long"),
        ([QUESTION, RESPONSE], {}, "No approval request found"),
        ([QUESTION, REQUEST, {**RESPONSE, "id": "other"}], {}, "must equal approval_request_id"),
        ([QUESTION, REQUEST, {k: v for k, v in RESPONSE.items() if k != "id"}], {}, "id: Field required"),
        ([QUESTION, REQUEST, RESPONSE, {**OUTPUT, "call_id": "call_2"}], {}, "must have a single result"),
        ([QUESTION, REQUEST], {}, "No tool output found for function call call_2"),
    ],
)
def test_a_request_that_a_strict_service_refuses(
    client: Client, items: list[Item], body: dict[str, Any], message: str
) -> None:
    answer = client.post(items, **body)

    assert answer.status_code == 400
    assert message in answer.json()["message"]
    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert client.service.submissions()["count"] == 0
    assert client.service.submissions()["posts"] == 1


def test_unknown_tools_and_consistent_histories_are_accepted(client: Client) -> None:
    tools = [FUNCTION, {"type": "novelty", "novelty": {}}, {"type": "app", "app": {"name": "a"}}]

    client.create([user("a"), CALL, OUTPUT, REQUEST, RESPONSE, user("b", reply="c")], tools=tools)


def test_a_lenient_service_accepts_what_a_dump_of_the_client_contains(client: Client) -> None:
    question = {**user("hello", lenient=True), "id": None, "status": None}

    client.create([{**CALL, "namespace": None, "status": "completed"}, question])


@pytest.mark.parametrize(
    ("token", "status"), [("", 401), ("Basic x", 401), ("Bearer wrong-1", 401), ("Bearer forbidden-1", 403)]
)
def test_who_may_not_ask(client: Client, token: str, status: int) -> None:
    answer = client.post([QUESTION], headers={"authorization": token})

    assert answer.status_code == status
    assert answer.json()["error_code"] == ("PERMISSION_DENIED" if status == 403 else "UNAUTHENTICATED")
    assert client.service.submissions()["count"] == 0


def test_paths_that_are_not_of_the_contract_are_a_404(service: LocalSupervisor) -> None:
    for path in ("/nothing", RESPONSES):
        answer = httpx.get(service.url + path, trust_env=False)
        assert answer.status_code == 404
        assert answer.json()["error_code"]


def test_the_call_of_a_client_side_function_ends_the_job_and_its_output_continues_the_turn(
    client: Client,
) -> None:
    question = user("go", calls=[{"name": "f", "arguments": {"x": 1}}], rounds=[{"reply": "first"}])
    first = client.run([question], tools=[FUNCTION])
    call = first["output"][-1]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "f", '{"x": 1}')

    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}
    second = client.run([question, sendable(call), output], tools=[FUNCTION])

    assert text_of(second) == "first"
    assert [job["round"] for job in client.service.submissions()["jobs"]] == [0, 1]


def test_a_function_may_be_asked_for_again(client: Client) -> None:
    again = {"calls": [{"name": "f", "arguments": {"x": 2}}]}
    items = [user("go", calls=[{"name": "f"}], rounds=[again, {"reply": "enough"}])]
    for _ in range(2):
        call = client.run(items, tools=[FUNCTION])["output"][-1]
        items += [
            sendable(call),
            {"type": "function_call_output", "call_id": call["call_id"], "output": "no"},
        ]

    assert text_of(client.run(items, tools=[FUNCTION])) == "enough"


@pytest.mark.parametrize("approve", [True, False])
def test_an_approval_is_a_new_job_that_brings_an_output_and_a_message(client: Client, approve: bool) -> None:
    question = user("go", approvals=[{"name": "web-search", "server_label": "you", "arguments": {"q": 1}}])
    first = client.run([question])
    request = first["output"][-1]
    assert first["status"] == "completed"
    assert request["type"] == "mcp_approval_request"

    answer = {
        "type": "mcp_approval_response", "id": request["id"], "approval_request_id": request["id"],
        "approve": approve, "reason": "too dear",
    }  # fmt: skip
    second = client.run([question, request, answer])

    output, message = second["output"]
    assert (output["type"], output["call_id"]) == ("function_call_output", request["id"])
    assert ("too dear" in output["output"]) is not approve
    assert message["type"] == "message"
    assert second["id"] != first["id"]


def test_several_approvals_and_a_function_call_at_once(client: Client) -> None:
    question = user("go", approvals=[{"name": "a"}, {"name": "b"}], calls=[{"name": "f"}])
    call, *requests = client.run([question], tools=[FUNCTION])["output"]
    answers = [
        {"type": "mcp_approval_response", "id": r["id"], "approval_request_id": r["id"], "approve": True}
        for r in requests
    ]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}

    second = client.run([question, sendable(call), *requests, *answers, output], tools=[FUNCTION])

    new = [item for item in second["output"] if item.get("call_id") != call["call_id"]]
    assert [item["type"] for item in new] == ["function_call_output", "function_call_output", "message"]


def test_cancelling_freezes_a_job(client: Client) -> None:
    job_id = client.create([user("long", duration_s=600, reply="never")])["id"]

    assert client.cancel(job_id).json()["status"] == "cancelled"
    assert client.retrieve(job_id)["status"] == "cancelled"
    assert client.cancel(job_id).status_code == 200
