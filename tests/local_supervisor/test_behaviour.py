"""The nasty sides, as a client sees them."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.local_supervisor.conftest import Client, sendable, text_of, user
from tests.support.local_supervisor_process import RESPONSES, LocalSupervisor


@pytest.mark.parametrize(("when", "count"), [("before", 0), ("after", 1)])
def test_a_lost_connection_may_or_may_not_have_created_the_job(client: Client, when: str, count: int) -> None:
    with pytest.raises(httpx.TransportError):
        client.post([user("hello", drop_create=when)])

    submissions = client.service.submissions()
    assert submissions["count"] == count
    assert submissions["posts"] == 1
    assert [job["connection"] for job in submissions["jobs"]] == ["dropped"] * count


def test_errors_of_create_are_used_up_one_for_each_post(client: Client) -> None:
    question = user("hello", create_errors=[503, 429, "drop"], retry_after=7, reply="hi")

    first, second = client.post([question]), client.post([question])
    assert (first.status_code, second.status_code) == (503, 429)
    assert second.headers["retry-after"] == "7"
    with pytest.raises(httpx.TransportError):
        client.post([question])
    assert client.service.submissions()["count"] == 0
    assert text_of(client.run([question])) == "hi"


def test_an_error_of_create_may_hide_an_accepted_job(client: Client) -> None:
    question = user("hello", create_errors=[500], create_errors_accept=True)

    assert client.post([question]).status_code == 500
    assert client.service.submissions("hello")["count"] == 1


def test_an_answer_to_create_that_is_not_json(client: Client) -> None:
    answer = client.post([user("hello", garbage_create=True)])

    assert answer.status_code == 200
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json()
    assert client.service.submissions()["jobs"][0]["connection"] == "garbage"


@pytest.mark.parametrize("field", ["accept_delay_s", "answer_delay_s"])
def test_a_job_exists_although_its_client_gave_up_waiting(own_service: LocalSupervisor, field: str) -> None:
    body = {"model": "m", "background": True, "input": [user("hello", **{field: 1})]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            own_service.url + RESPONSES,
            json=body,
            headers={"authorization": "Bearer x"},
            timeout=0.3,
            trust_env=False,
        )

    while own_service.submissions()["count"] == 0:
        time.sleep(0.05)
    while own_service.submissions()["jobs"][0]["connection"] == "open":
        time.sleep(0.05)
    assert own_service.submissions()["posts"] == 1


def test_idempotency_keys_are_ignored_unless_asked_for(client: Client) -> None:
    headers = {"idempotency-key": "k"}
    ignored = [client.post([user("a")], headers).json()["id"] for _ in range(2)]
    honoured = [
        client.post([user("b", honour_idempotency_key=True)], {"idempotency-key": "l"}).json()["id"]
        for _ in range(2)
    ]

    assert len(set(ignored)) == 2
    assert len(set(honoured)) == 1
    assert client.service.submissions()["count"] == 3


def test_a_job_that_advances_with_every_poll(client: Client) -> None:
    items = [{"content": [{"type": "output_text", "text": str(n)}]} for n in range(3)]
    job_id = client.create([user("go", items=items, polls_to_finish=3)])["id"]

    seen = [client.retrieve(job_id) for _ in range(4)]

    assert [response["status"] for response in seen] == [
        "in_progress",
        "in_progress",
        "completed",
        "completed",
    ]
    assert [len(response["output"]) for response in seen] == [0, 1, 3, 3]


@pytest.mark.parametrize("echo", ["none", "same_ids", "new_ids", "no_ids"])
def test_the_history_at_the_head_of_the_output(client: Client, echo: str) -> None:
    history = [
        user("first"),
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "content": [{"type": "output_text", "text": "A"}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "hosted", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
    ]
    output = client.run([*history, user("second", echo=echo, reply="B")])["output"]

    assert [item["type"] for item in output[:-1]] == (
        [] if echo == "none" else ["message", "function_call", "function_call_output"]
    )
    ids = [item["id"] for item in output[:-1] if "id" in item]
    if echo == "same_ids":
        assert ids == ["msg_1", "fc_1"]
    elif echo == "no_ids":
        assert ids == [None, None]
    else:
        assert not {"msg_1", "fc_1", None} & set(ids)


def test_items_that_are_unfinished_have_no_id_and_half_a_content(client: Client) -> None:
    job_id = client.create([user("go", unfinished=True, polls_to_finish=2, reply="abcd")])["id"]

    first, second = client.retrieve(job_id)["output"][0], client.retrieve(job_id)["output"][0]

    assert (first["id"], first["status"], first["content"][0]["text"]) == (None, "incomplete", "ab")
    assert second["id"]
    assert second["content"][0]["text"] == "abcd"


def test_a_later_item_may_be_complete_before_an_earlier_one(client: Client) -> None:
    items: list[dict[str, Any]] = [{"content": [{"type": "output_text", "text": str(n)}]} for n in range(4)]
    job_id = client.create([user("go", items=items, out_of_order=True, polls_to_finish=40)])["id"]

    seen = [client.retrieve(job_id)["output"] for _ in range(40)]

    orders = [[item["id"] is not None for item in output] for output in seen]
    assert [False, True] in [order[:2] for order in orders]
    assert orders[-1] == [True] * 4


def test_long_ids_are_found_whole_and_not_cut(client: Client) -> None:
    question = user("go", long_ids=125, approvals=[{"name": "a"}])
    finished = client.run([question])
    request = finished["output"][0]

    assert len(finished["id"]) == len(request["id"]) == 125
    assert client.get(finished["id"][:64]).status_code == 404
    cut = request["id"][:64]
    answer = {"type": "mcp_approval_response", "id": cut, "approval_request_id": cut, "approve": True}
    assert client.post([question, request, {**answer, "id": request["id"]}]).status_code == 400
    assert client.run([question, {**request, "id": cut}, answer])["output"][0]["call_id"] == cut


def test_forms_of_output_that_trip_a_client(client: Client) -> None:
    created = client.create([user("go", null_output=True, reply="hi")])
    last = client.run([user("go", final_item_without_id=True, reply="hi")])["output"][-1]
    unfinished = client.run([user("go", last_item_unfinished=True, reply="hi")])["output"][-1]
    unknown = client.run([user("go", unknown_items=1, reply="hi")])["output"][0]

    assert created["output"] is None
    assert last["id"] is None
    assert unfinished["status"] == "in_progress"
    assert unknown["type"] == "databricks_novelty"


@pytest.mark.parametrize("status", ["failed", "cancelled", "incomplete", "paused_by_moon"])
def test_ends_other_than_completed(client: Client, status: str) -> None:
    finished = client.run([user("go", final_status=status, reply="part")])

    assert finished["status"] == status
    assert (finished["error"] is not None) == (status == "failed")
    assert (finished["incomplete_details"] is not None) == (status == "incomplete")


def test_an_error_inside_of_a_completed_response(client: Client) -> None:
    error = {"code": "x", "message": "Please login first to the connection by visiting https://example.test"}

    finished = client.run([user("go", error=error, error_in_completed=True, reply="")])

    assert (finished["status"], finished["error"]) == ("completed", error)


def test_a_job_may_be_terminal_in_the_answer_to_its_creation(client: Client) -> None:
    assert client.create([user("go", instant=True, final_status="failed", reply="")])["status"] == "failed"


def test_retrieves_fail_in_turn(client: Client) -> None:
    faults: list[Any] = [503, "drop", "garbage", {"status": 410, "message": "retired"}]
    job_id = client.create(
        [user("go", not_found_first=1, retrieve_errors=faults, polls_to_finish=1, reply="hi")]
    )["id"]

    assert client.get(job_id).status_code == 404
    assert client.get(job_id).status_code == 503
    with pytest.raises(httpx.TransportError):
        client.get(job_id)
    assert client.get(job_id).content.startswith(b"<html>")
    assert client.get(job_id).json()["message"] == "retired"
    assert text_of(client.retrieve(job_id)) == "hi"
    assert client.service.submissions()["jobs"][0]["polls"] == 6


def test_jobs_that_can_never_be_retrieved_or_expire_or_cannot_be_cancelled(client: Client) -> None:
    never = client.create([user("a", retrieve_error_forever=403)])["id"]
    expired = client.create([user("b", expires_after_s=0)])["id"]
    stubborn = client.create([user("c", cancel=501)])["id"]

    assert client.get(never).status_code == 403
    assert client.get(expired).status_code == 404
    assert client.cancel(stubborn).status_code == 501


def test_the_default_behaviour_can_be_changed_while_it_runs(client: Client) -> None:
    client.service.set_behaviour(reply="default")
    assert text_of(client.run([user("a")])) == "default"
    assert text_of(client.run([user("a", reply="own")])) == "own"
    client.service.set_behaviour(reply=None, create_error_forever=503)
    assert client.post([user("a")]).status_code == 503


def test_a_directive_is_no_part_of_the_question_and_a_typo_in_it_is_refused(client: Client) -> None:
    client.create([user("hello", reply="hi")])
    assert client.service.submissions()["jobs"][0]["question"] == "hello"
    assert "no_such_field" in client.post([user("hello", no_such_field=1)]).json()["message"]


def test_cut_call_ids_still_tell_the_round(client: Client) -> None:
    tool = {"type": "function", "name": "f"}
    question = user("go", long_call_ids=191, calls=[{"name": "f"}], rounds=[{"reply": "done"}])
    call = sendable(client.run([question], tools=[tool])["output"][-1])
    assert len(call["call_id"]) == 191
    cut = call["call_id"][:64]
    output = {"type": "function_call_output", "call_id": cut, "output": "1"}

    assert text_of(client.run([question, {**call, "call_id": cut}, output], tools=[tool])) == "done"
