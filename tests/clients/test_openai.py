"""`openai.OpenAI` and `openai.AsyncOpenAI`, with nothing but `base_url` changed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

from tests.clients.chat import directed
from tests.clients.openai_clients import CLIENTS, Client
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.server_process import ServerProcess

PUBLISH = {"name": "publish", "server_label": "reports", "arguments": {"quarter": "2026-Q3"}}
NOTIFY = {"name": "notify", "server_label": "mail", "arguments": {"to": "all"}}
CLOCK = {"type": "function", "name": "clock", "parameters": {"type": "object", "properties": {}}}
THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Think first."}]}
MODEL = "agent"


@pytest.fixture(params=CLIENTS)
async def client(request: pytest.FixtureRequest, server: ServerProcess) -> AsyncIterator[Client]:
    """One of the two clients."""
    opened = CLIENTS[request.param](server.url, max_retries=0)
    yield opened
    await opened.close()


@pytest.fixture
def question() -> str:
    """A question that no other test asks."""
    return f"Question {uuid.uuid4().hex[:12]}?"


@pytest.fixture
def submitted(service: LocalSupervisor, question: str) -> Callable[[], int]:
    """How many jobs the question has become, follow-ups included."""
    return lambda: int(service.submissions(question)["count"])


def user(text: str) -> dict[str, Any]:
    """What a person says."""
    return {"role": "user", "content": text}


def answer_to(request_id: str, *, approve: bool, **more: Any) -> dict[str, Any]:
    """What a person decides."""
    return {
        "type": "mcp_approval_response",
        "approval_request_id": request_id,
        "approve": approve,
        **more,
    }


def echo(response: Any) -> list[dict[str, Any]]:
    """A response's output as clients that keep the history themselves send it back."""
    return [item.model_dump() for item in response.output]


def text_in(events: list[Any]) -> str:
    """The text that the deltas of a stream add up to."""
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


async def test_create(client: Client, question: str, submitted: Callable[[], int]) -> None:
    response = await client.create(model=MODEL, input=directed(question, reply="Hello."))
    assert (response.status, response.output_text, response.error) == ("completed", "Hello.", None)
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0
    assert (await client.retrieve(response.id)).output == response.output
    assert submitted() == 1


async def test_create_with_items(client: Client, question: str, submitted: Callable[[], int]) -> None:
    said = [{"type": "input_text", "text": directed(question, reply="Hello.")}]
    response = await client.create(model=MODEL, input=[{"type": "message", "role": "user", "content": said}])
    assert response.output_text == "Hello."
    assert submitted() == 1


async def test_stream(client: Client, question: str, submitted: Callable[[], int]) -> None:
    items = directed(question, items=[THOUGHT], reply_words=400)
    events = await client.events(model=MODEL, input=items)
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert text_in(events) == events[-1].response.output_text
    assert len(text_in(events).split()) == 400
    assert submitted() == 1


async def test_the_stream_helper_builds_the_final_response(
    client: Client, question: str, submitted: Callable[[], int]
) -> None:
    events, final = await client.streamed(
        model=MODEL, input=directed(question, items=[THOUGHT], reply_words=400)
    )
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert text_in(events) == final.output_text
    assert (await client.retrieve(final.id)).output_text == final.output_text
    assert submitted() == 1


async def test_background_and_retrieve(client: Client, question: str, submitted: Callable[[], int]) -> None:
    response = await client.create(model=MODEL, input=directed(question, reply="Done."), background=True)
    assert response.status in ("queued", "in_progress")
    response = await ended(client, response.id)
    assert (response.status, response.output_text) == ("completed", "Done.")
    assert submitted() == 1


async def test_a_streamed_retrieve_goes_on_after_its_cursor(
    client: Client, question: str, submitted: Callable[[], int]
) -> None:
    response = await client.create(model=MODEL, input=directed(question, reply_words=300), background=True)
    events = await client.events_after(response.id)
    assert events[-1].type == "response.completed"
    for cursor in (0, 3, len(events) - 2, len(events) - 1):
        assert await client.events_after(response.id, cursor) == events[cursor + 1 :]
    assert submitted() == 1


async def test_background_and_stream(client: Client, question: str, submitted: Callable[[], int]) -> None:
    asked = directed(question, reply_words=300, duration_s=1)
    first = await client.first_events(2, model=MODEL, input=asked, background=True)
    rest = await client.events_after(first[0].response.id, first[-1].sequence_number)
    assert [event.sequence_number for event in rest] == list(range(2, 2 + len(rest)))
    assert len(text_in(rest).split()) == 300
    assert submitted() == 1


async def test_cancel(client: Client, question: str, submitted: Callable[[], int]) -> None:
    asked = directed(question, reply="Never said.", duration_s=60)
    response = await client.create(model=MODEL, input=asked, background=True)
    await submitted_at_last(client, response.id)
    cancelled = await client.cancel(response.id)
    assert (cancelled.status, cancelled.output) == ("cancelled", [])
    assert (await client.retrieve(response.id)).status == "cancelled"
    assert submitted() == 1


async def test_cancel_that_the_service_cannot_do(
    client: Client, question: str, submitted: Callable[[], int]
) -> None:
    asked = directed(question, reply="Said all the same.", duration_s=1, cancel=501)
    response = await client.create(model=MODEL, input=asked, background=True)
    await submitted_at_last(client, response.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.cancel(response.id)
    assert refused.value.code == "cancel_not_supported"
    assert (await ended(client, response.id)).output_text == "Said all the same."
    assert submitted() == 1


@pytest.mark.parametrize("approve", [True, False], ids=["approval", "denial"])
@pytest.mark.parametrize("known_by", ["previous_response_id", "approval id", "history"])
async def test_approvals(
    client: Client, question: str, submitted: Callable[[], int], approve: bool, known_by: str
) -> None:
    asked = directed(question, approvals=[PUBLISH], rounds=[{"reply": "Settled."}])
    first = await client.create(model=MODEL, input=asked)
    (request,) = first.output
    assert (first.status, request.type, request.name) == ("completed", "mcp_approval_request", "publish")
    answer = answer_to(request.id, approve=approve)
    match known_by:
        case "previous_response_id":
            second = await client.create(model=MODEL, input=[answer], previous_response_id=first.id)
        case "approval id":
            second = await client.create(model=MODEL, input=[answer])
        case _:
            second = await client.create(model=MODEL, input=[user(asked), *echo(first), answer])
    said = "was run with" if approve else "refused"
    output = next(item for item in second.output if item.type == "function_call_output")
    assert said in str(output.output)
    assert second.output_text == "Settled."
    assert second.id != first.id
    assert (await client.retrieve(first.id)).output == first.output
    assert submitted() == 2


async def test_several_approvals_are_answered_one_by_one(
    client: Client, question: str, submitted: Callable[[], int]
) -> None:
    asked = directed(question, approvals=[PUBLISH, NOTIFY], rounds=[{"reply": "Settled."}])
    first = await client.create(model=MODEL, input=asked)
    one, two = (item.id for item in first.output)
    half = await client.create(
        model=MODEL, input=[answer_to(one, approve=True)], previous_response_id=first.id
    )
    assert submitted() == 1
    whole = await client.create(
        model=MODEL, input=[answer_to(two, approve=False)], previous_response_id=half.id
    )
    assert whole.output_text == "Settled."
    assert submitted() == 2


async def test_a_streamed_approval(client: Client, question: str, submitted: Callable[[], int]) -> None:
    asked = directed(question, approvals=[PUBLISH], rounds=[{"reply": "Settled."}])
    _, first = await client.streamed(model=MODEL, input=asked)
    answer = answer_to(first.output[0].id, approve=True)
    _, second = await client.streamed(model=MODEL, input=[answer], previous_response_id=first.id)
    assert second.output_text == "Settled."
    assert submitted() == 2


@pytest.mark.parametrize("known_by", ["previous_response_id", "history"])
async def test_functions_of_the_client(
    client: Client, question: str, submitted: Callable[[], int], known_by: str
) -> None:
    calls = [{"name": "clock", "arguments": {"zone": zone}} for zone in ("UTC", "CET")]
    asked = directed(question, items=[THOUGHT], calls=calls, rounds=[{"reply": "Noon and one."}])
    first = await client.create(model=MODEL, input=asked, tools=[CLOCK])
    made = [item for item in first.output if item.type == "function_call"]
    assert [call.arguments for call in made] == ['{"zone": "UTC"}', '{"zone": "CET"}']
    outputs = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"{hour}:00"}
        for call, hour in zip(made, (12, 13), strict=True)
    ]
    if known_by == "history":
        second = await client.create(model=MODEL, input=[user(asked), *echo(first), *outputs], tools=[CLOCK])
    else:
        second = await client.create(model=MODEL, input=outputs, previous_response_id=first.id, tools=[CLOCK])
    assert second.output_text == "Noon and one."
    assert submitted() == 2


async def test_a_call_without_its_output_is_refused(
    client: Client, question: str, submitted: Callable[[], int]
) -> None:
    asked = directed(question, calls=[{"name": "clock"}, {"name": "clock"}])
    first = await client.create(model=MODEL, input=asked, tools=[CLOCK])
    one, two = (item.call_id for item in first.output)
    output = {"type": "function_call_output", "call_id": one, "output": "12:00"}
    with pytest.raises(openai.BadRequestError, match=f"No tool output found for function call {two}"):
        await client.create(model=MODEL, input=[output], previous_response_id=first.id, tools=[CLOCK])
    assert submitted() == 1


async def test_a_conversation_by_previous_response_id(
    client: Client, service: LocalSupervisor, question: str
) -> None:
    first = await client.create(model=MODEL, input=directed(f"{question} one", reply="First."))
    second = await client.create(
        model=MODEL, input=directed(f"{question} two", reply="Second."), previous_response_id=first.id
    )
    assert second.output_text == "Second."
    (job,) = service.submissions(f"{question} two")["jobs"]
    sent = service.job(job["id"])["request"]["input"]
    assert [item["role"] for item in sent] == ["user", "assistant", "user"]


async def test_a_conversation_by_history(client: Client, service: LocalSupervisor, question: str) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "system__ai__sql", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "one row"}
    history = [user(directed(f"{question} one", items=[THOUGHT, call, output], reply="First."))]
    first = await client.create(model=MODEL, input=history)
    history += [*echo(first), user(directed(f"{question} two", reply="Second."))]
    second = await client.create(model=MODEL, input=history)
    assert second.output_text == "Second."
    assert service.submissions(f"{question} one")["count"] == 1
    (job,) = service.submissions(f"{question} two")["jobs"]
    sent = [item.get("type", "message") for item in service.job(job["id"])["request"]["input"]]
    assert sent == ["message", "function_call", "function_call_output", "message", "message"]


async def test_an_idempotency_key_makes_one_job_of_many_posts(
    client: Client, question: str, submitted: Callable[[], int]
) -> None:
    given: dict[str, Any] = {"model": MODEL, "input": directed(question, reply="Once.")}
    given["extra_headers"] = {"Idempotency-Key": uuid.uuid4().hex}
    responses = await asyncio.gather(*(client.create(**given) for _ in range(5)))
    again = await client.create(**given)
    assert {response.id for response in responses} == {again.id}
    assert {response.output_text for response in (*responses, again)} == {"Once."}
    assert submitted() == 1


async def test_what_nobody_knows_is_asked(
    client: Client, question: str, submitted: Callable[[], int]
) -> None:
    asked = directed(question, reply="After all.", create_errors=[503])
    first = await client.create(model=MODEL, input=asked)
    (request,) = first.output
    assert (request.name, request.server_label) == ("resubmit_job", "supervisor")
    assert submitted() == 0
    answer = answer_to(request.id, approve=True)
    second = await client.create(model=MODEL, input=[answer], previous_response_id=first.id)
    assert second.output_text == "After all."
    assert submitted() == 1


async def test_a_job_that_failed_is_no_http_error(
    client: Client, question: str, submitted: Callable[[], int]
) -> None:
    failure = {"final_status": "failed", "error": {"code": "broken", "message": "The tool broke."}}
    response = await client.create(model=MODEL, input=directed(question, items=[], **failure))
    assert response.status == "failed"
    assert response.error is not None
    assert "The tool broke." in response.error.message
    assert submitted() == 1


async def test_a_job_that_failed_ends_its_stream(client: Client, question: str) -> None:
    failure = {"final_status": "failed", "error": {"code": "broken", "message": "The tool broke."}}
    response = await client.create(
        model=MODEL, input=directed(question, reply="So far", **failure), background=True
    )
    heard = await client.events_after(response.id)
    assert [event.type for event in heard[-2:]] == ["error", "response.failed"]
    assert heard[-1].response.output_text == "So far"


@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter"])
async def test_an_answer_that_is_incomplete(client: Client, question: str, reason: str) -> None:
    cut = {"final_status": "incomplete", "incomplete_details": {"reason": reason}}
    response = await client.create(model=MODEL, input=directed(question, reply="Half of", **cut))
    assert (response.status, response.output_text) == ("incomplete", "Half of")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == reason


FAULTS: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], str]] = {
    "bad request": (
        {"create_error_forever": {"status": 400, "message": "Please ensure AI Gateway V2 is enabled"}},
        openai.BadRequestError,
        "request_rejected",
    ),
    "credentials": ({"create_error_forever": 401}, openai.AuthenticationError, "authentication_error"),
    "permission": ({"create_error_forever": 403}, openai.PermissionDeniedError, "permission_denied"),
    "rate": (
        {"create_error_forever": 429, "retry_after": 600},
        openai.RateLimitError,
        "rate_limit_exceeded",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_the_service_refuses_is_a_typed_error(
    client: Client, question: str, submitted: Callable[[], int], fault: str
) -> None:
    behaviour, kind, code = FAULTS[fault]
    with pytest.raises(kind) as refused:
        await client.create(model=MODEL, input=directed(question, **behaviour))
    assert refused.value.code == code
    assert refused.value.body is not None
    assert submitted() == 0


WRONG: dict[str, tuple[dict[str, Any], type[openai.APIStatusError]]] = {
    "no input": ({"input": []}, openai.BadRequestError),
    "a tool of another kind": ({"tools": [{"type": "web_search"}]}, openai.BadRequestError),
    "an unknown response": ({"previous_response_id": "resp_unknown"}, openai.NotFoundError),
    "an answer to nothing": ({"input": [answer_to("call_x", approve=True)]}, openai.BadRequestError),
    "an output of nothing": (
        {"input": [{"type": "function_call_output", "call_id": "call_x", "output": ""}]},
        openai.BadRequestError,
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_request_that_is_wrong_is_a_typed_error(
    client: Client, question: str, submitted: Callable[[], int], wrong: str
) -> None:
    given, kind = WRONG[wrong]
    with pytest.raises(kind) as refused:
        await client.create(**{"model": MODEL, "input": question, **given})
    assert "Nothing was" in refused.value.message
    assert submitted() == 0


async def test_a_response_that_does_not_exist(client: Client) -> None:
    for ask in (client.retrieve, client.cancel, client.events_after):
        with pytest.raises(openai.NotFoundError):
            await ask("resp_unknown")


async def test_a_thread_that_is_busy_is_a_conflict(client: Client, question: str) -> None:
    named = {"extra_body": {"custom_inputs": {"thread_id": uuid.uuid4().hex}}, "model": MODEL}
    running = await client.create(
        input=directed(question, reply="Never said.", duration_s=60), background=True, **named
    )
    with pytest.raises(openai.ConflictError) as refused:
        await client.create(input="Something else?", **named)
    assert refused.value.code == "thread_busy"
    assert refused.value.response.headers["retry-after"]
    await submitted_at_last(client, running.id)
    await client.cancel(running.id)


async def ended(client: Client, id: str) -> Any:
    """A response at its end."""
    return await no_longer(client, id, "queued", "in_progress")


async def submitted_at_last(client: Client, id: str) -> Any:
    """A response whose job has an id by which it can be cancelled."""
    return await no_longer(client, id, "queued")


async def no_longer(client: Client, id: str, *statuses: str) -> Any:
    """A response that has left some statuses."""
    while True:
        response = await client.retrieve(id)
        if response.status not in statuses:
            return response
        await asyncio.sleep(0.02)
