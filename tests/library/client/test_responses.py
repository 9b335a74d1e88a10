"""The client: one exchange each, sorted by what it proves."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from databricks_supervisor.client.failures import NotAccepted, OutcomeUnknown, Transient
from databricks_supervisor.client.responses import ServiceResponse, SupervisorClient
from databricks_supervisor.errors import (
    AuthenticationError,
    PermissionDeniedError,
    RequestRejectedError,
    ServiceError,
    ServiceRetiredError,
    ServiceUnavailableError,
)
from tests.support.scripted_service import (
    API_KEY,
    Answer,
    ScriptedService,
    message,
    refusal,
    response,
    serving,
)

BODY = {"model": "m", "input": [], "background": True, "stream": False}
LONG_ID = "resp_" + "x" * 186


async def create(service: ScriptedService, sdk: Any = None, timeout_s: float = 5.0) -> ServiceResponse:
    client = SupervisorClient(sdk or service.client())
    return await client.create(BODY, idempotency_key="key", timeout_s=timeout_s)


async def retrieve(
    service: ScriptedService, response_id: str = "resp_1", last: ServiceResponse | None = None
) -> ServiceResponse:
    return await SupervisorClient(service.client()).retrieve(response_id, timeout_s=5.0, last=last)


# ---- create


async def test_a_created_response_is_read_as_it_came() -> None:
    async with serving(ScriptedService([response("queued", usage=None)])) as service:
        reply = await create(service)
    assert (reply.id, reply.status, reply.output, reply.terminal) == ("resp_1", "queued", [], False)
    assert reply.body["usage"] is None


async def test_what_is_sent_is_the_body_as_it_was_given_and_an_idempotency_key() -> None:
    async with serving(ScriptedService([response("queued")])) as service:
        await SupervisorClient(service.client()).create(
            BODY, idempotency_key="key-1", timeout_s=5, headers={"traceparent": "00-1"}
        )
    (request,) = service.requests
    assert (request.method, request.path, request.body) == ("POST", "/v1/responses", BODY)
    assert request.headers["idempotency-key"] == "key-1"
    assert request.headers["traceparent"] == "00-1"
    assert request.headers["authorization"] == f"Bearer {API_KEY}"


async def test_an_id_is_never_cut() -> None:
    async with serving(ScriptedService([response("queued", id=LONG_ID)], [response(id=LONG_ID)])) as service:
        assert (await create(service)).id == LONG_ID
        assert (await retrieve(service, LONG_ID)).id == LONG_ID
    assert service.gets[0].path == f"/v1/responses/{LONG_ID}"


async def test_an_id_with_odd_characters_stays_one_part_of_the_path() -> None:
    async with serving(ScriptedService([], [response(id="a/b?c d")], [Answer(body={})])) as service:
        await retrieve(service, "a/b?c d")
        assert await SupervisorClient(service.client()).cancel("a/b?c d", timeout_s=5)
    assert [request.path for request in service.requests] == [
        "/v1/responses/a%2Fb%3Fc%20d",
        "/v1/responses/a%2Fb%3Fc%20d/cancel",
    ]


UNKNOWN = {
    **{str(status): refusal(status, "try later") for status in (408, 409, 500, 502, 503, 504, 529)},
    "cut before the request was read": Answer(drop="unread"),
    "cut before the answer": Answer(drop="unanswered"),
    "cut in the answer": Answer(body={"id": "resp_1", "status": "queued"}, drop="halfway"),
    "an error cut off halfway": Answer(500, {"error": {"message": "x" * 100}}, drop="halfway"),
    "not JSON": Answer(body=b"<html>hello</html>"),
    "nothing": Answer(body=b""),
    "not UTF-8": Answer(body=b"\xff\xfe\x00"),
    "a list": Answer(body=[1]),
    "no id": Answer(body={"status": "queued"}),
    "an id that is no text": Answer(body={"id": 7}),
    "an empty id": Answer(body={"id": "", "status": "queued"}),
    "nested too deep": Answer(body=b"[" * 200_000),
}


@pytest.mark.parametrize("answer", UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_a_create_that_proves_nothing_is_of_unknown_outcome_and_is_not_repeated(answer: Answer) -> None:
    async with serving(ScriptedService([answer])) as service:
        with pytest.raises(OutcomeUnknown):
            await create(service, service.client(max_retries=5))
        assert len(service.requests) == 1


async def test_a_create_that_takes_too_long_is_of_unknown_outcome() -> None:
    never = asyncio.Event()
    async with serving(ScriptedService([Answer(until=never)])) as service:
        with pytest.raises(OutcomeUnknown, match="ReadTimeout"):
            await create(service, timeout_s=0.02)
        assert len(service.requests) == 1


REFUSED: dict[int, type[ServiceError]] = {
    400: RequestRejectedError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: RequestRejectedError,
    410: ServiceRetiredError,
    413: RequestRejectedError,
    422: RequestRejectedError,
    501: ServiceRetiredError,
}


@pytest.mark.parametrize(("status", "kind"), REFUSED.items())
async def test_a_refusal_proves_that_nothing_was_created(status: int, kind: type[ServiceError]) -> None:
    async with serving(ScriptedService([refusal(status, "because of this")])) as service:
        with pytest.raises(NotAccepted) as refused:
            await create(service)
        assert len(service.requests) == 1
    error = refused.value.error
    assert type(error) is kind
    assert error.status_code == status
    assert "because of this" in str(error)
    assert "Nothing was submitted" in str(error)
    assert not refused.value.retryable
    assert refused.value.stale_credentials == (status == 401)


async def test_an_overloaded_service_created_nothing_and_may_be_asked_again() -> None:
    async with serving(ScriptedService([refusal(429, "slow down", {"Retry-After": "7"})])) as service:
        with pytest.raises(NotAccepted) as refused:
            await create(service)
    assert refused.value.retryable
    assert refused.value.retry_after_s == 7.0
    assert isinstance(refused.value.error, ServiceUnavailableError)


async def test_a_refused_connection_created_nothing_and_may_be_tried_again() -> None:
    service = ScriptedService()
    async with serving(service):
        pass  # Now the port is free, and nobody listens on it.
    with pytest.raises(NotAccepted) as refused:
        await create(service)
    assert refused.value.retryable
    assert isinstance(refused.value.error, ServiceUnavailableError)
    assert service.url in str(refused.value.error)


async def test_a_certificate_that_is_wrong_is_not_tried_again() -> None:
    def handshake(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate", request=request)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(handshake))
    sdk = openai.AsyncOpenAI(base_url="https://127.0.0.1", api_key=API_KEY, http_client=http)
    with pytest.raises(NotAccepted, match="CERTIFICATE_VERIFY_FAILED") as refused:
        await create(ScriptedService(), sdk)
    assert not refused.value.retryable


async def test_credentials_that_cannot_be_obtained_created_nothing() -> None:
    async def no_token() -> str:
        raise RuntimeError("the token service is away")

    async with serving(ScriptedService([response("queued")])) as service:
        with pytest.raises(NotAccepted) as refused:
            await create(service, service.client(no_token))
        assert service.requests == []
    assert refused.value.stale_credentials
    assert isinstance(refused.value.error, AuthenticationError)
    assert "the token service is away" in str(refused.value.error)


async def test_a_cancelled_create_is_cancelled() -> None:
    reached, never = asyncio.Event(), asyncio.Event()
    async with serving(ScriptedService([Answer(until=never, reached=reached)])) as service:
        task = asyncio.ensure_future(create(service))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# ---- retrieve


PASSING = {
    **{str(status): refusal(status, "try later") for status in (408, 409, 425, 429, 500, 502, 503, 504)},
    "cut before the request was read": Answer(drop="unread"),
    "cut before the answer": Answer(drop="unanswered"),
    "cut in the answer": Answer(body={"id": "resp_1", "status": "queued"}, drop="halfway"),
    "not JSON": Answer(body=b"<html>"),
    "a list": Answer(body=[]),
    "no id": Answer(body={"status": "completed"}),
    "nested too deep": Answer(body=b"[" * 200_000),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING.keys())
async def test_a_read_that_fails_may_pass(answer: Answer) -> None:
    async with serving(ScriptedService([], [answer])) as service:
        with pytest.raises(Transient):
            await retrieve(service)
        # A connection that is cut may be one that was kept for too long: that is tried once more at once.
        assert len(service.requests) == (2 if answer.drop in ("unread", "unanswered") else 1)


async def test_a_read_of_an_absent_service_may_pass() -> None:
    service = ScriptedService()
    async with serving(service):
        pass
    with pytest.raises(Transient, match="ConnectionRefusedError"):
        await retrieve(service)


@pytest.mark.parametrize(("status", "kind"), REFUSED.items())
async def test_a_refused_read_is_final(status: int, kind: type[ServiceError]) -> None:
    async with serving(ScriptedService([], [refusal(status, "because of this")])) as service:
        with pytest.raises(kind, match="because of this") as refused:
            await retrieve(service)
    assert refused.value.status_code == status
    assert "Nothing was submitted" not in str(refused.value)


async def test_the_alternatives_of_a_retired_service_are_named() -> None:
    async with serving(ScriptedService([], [refusal(410, "gone")])) as service:
        with pytest.raises(ServiceRetiredError, match="Databricks Apps, OpenAI, or a server of your own"):
            await retrieve(service)


async def test_a_read_says_how_long_to_wait() -> None:
    async with serving(ScriptedService([], [refusal(503, headers={"Retry-After": "12.5"})])) as service:
        with pytest.raises(Transient) as failed:
            await retrieve(service)
    assert failed.value.retry_after_s == 12.5


async def test_a_body_that_did_not_change_is_not_parsed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    loads = json.loads

    def counting(raw: bytes) -> Any:
        parsed.append(raw)
        return loads(raw)

    running, done = response("in_progress"), response("completed", message("42"))
    async with serving(ScriptedService([], [running, running, done])) as service:
        first = await retrieve(service)
        monkeypatch.setattr("databricks_supervisor.client.responses.json.loads", counting)
        assert await retrieve(service, last=first) is first
        assert parsed == []
        last = await retrieve(service, last=first)
    assert parsed == [done.raw]
    assert last.terminal
    assert last.output == done.body["output"]


async def test_a_response_without_a_status_is_complete() -> None:
    async with serving(ScriptedService([], [Answer(body={"id": "resp_1", "status": None})])) as service:
        assert (await retrieve(service)).status == "completed"


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "incomplete"])
def test_a_job_ends_with_one_of_four_statuses(status: str) -> None:
    assert ServiceResponse("resp_1", status).terminal


@pytest.mark.parametrize("status", ["queued", "in_progress", "cancelling", "COMPLETED", "thinking"])
def test_any_other_status_may_still_change(status: str) -> None:
    assert not ServiceResponse("resp_1", status).terminal


# ---- cancel


@pytest.mark.parametrize(
    ("answer", "done"),
    [
        (Answer(body={"id": "resp_1", "status": "cancelled"}), True),
        (refusal(404), False),
        (refusal(501), False),
        (Answer(drop="unanswered"), False),
    ],
)
async def test_a_cancel_says_whether_the_service_did_it(answer: Answer, done: bool) -> None:
    async with serving(ScriptedService(cancels=[answer])) as service:
        assert await SupervisorClient(service.client()).cancel("resp_1", timeout_s=5) is done
        assert len(service.cancelled) == 1


# ---- secrets


ECHO = f"you sent Authorization: Bearer {API_KEY} ({API_KEY})"
TELLING = {
    "openai": lambda status: refusal(status, ECHO),
    "databricks": lambda status: Answer(status, {"error_code": "X", "message": ECHO}),
    "text": lambda status: Answer(status, ECHO.encode(), {"content-type": "text/plain"}),
    "list": lambda status: Answer(status, [ECHO]),
    "deep": lambda status: Answer(status, {"detail": {"headers": {"authorization": API_KEY}}}),
    "at the cut": lambda status: Answer(status, ("x" * 595 + ECHO).encode()),
}


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        for name in ("openai", "httpx2", "httpcore2", "databricks_supervisor", "asyncio"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        yield caplog


def told(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    """Everything that a person or a log may get to see of a failure."""
    return "".join([repr(error), *traceback.format_exception(error), caplog.text])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500])
@pytest.mark.parametrize("telling", TELLING.values(), ids=TELLING.keys())
async def test_a_service_that_repeats_the_credentials_gives_nothing_away(
    telling: Any, status: int, everything_logged: pytest.LogCaptureFixture
) -> None:
    async with serving(ScriptedService([telling(status)], [telling(status)])) as service:
        with pytest.raises((NotAccepted, OutcomeUnknown)) as created:
            await create(service)
        with pytest.raises((ServiceError, Transient)) as read:
            await retrieve(service)
    for error in (created.value, read.value):
        assert API_KEY not in told(error, everything_logged)
    if isinstance(created.value, NotAccepted):
        assert API_KEY not in told(created.value.error, everything_logged)


@pytest.mark.parametrize(
    "raw", [ECHO.encode(), json.dumps({"you": API_KEY}).encode(), b"x" * 195 + API_KEY.encode()]
)
async def test_an_answer_that_is_no_response_gives_nothing_away(
    raw: bytes, everything_logged: pytest.LogCaptureFixture
) -> None:
    async with serving(ScriptedService([Answer(body=raw)], [Answer(body=raw)])) as service:
        with pytest.raises(OutcomeUnknown) as created:
            await create(service)
        with pytest.raises(Transient) as read:
            await retrieve(service)
    for error in (created.value, read.value):
        said = told(error, everything_logged)
        assert API_KEY not in said
        assert API_KEY[:5] not in repr(error)


@pytest.mark.parametrize("key", [f"{API_KEY}\n", f"{API_KEY}\x00", "p: q\n"])
async def test_a_key_that_cannot_be_sent_is_not_shown(key: str) -> None:
    async with serving(ScriptedService([response("queued")])) as service:
        with pytest.raises(NotAccepted) as failed:
            await create(service, service.client(key))
        assert service.requests == []
    assert isinstance(failed.value.error, AuthenticationError)
    said = "".join(traceback.format_exception(failed.value.error))
    assert key.strip() not in said
    assert "line break in the token" in said
