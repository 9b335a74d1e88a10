"""What a service says when it refuses, and what a failed exchange proves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_supervisor.client.failures import advice_for, is_unsent, read_error_response
from tests.support.scripted_service import API_KEY, Answer, ScriptedService, serving


def answered(
    body: Any, status: int = 400, headers: dict[str, str] | None = None, key: str = "authorization"
) -> httpx2.Response:
    """An answer to a request that carried credentials under ``key``."""
    request = httpx2.Request("POST", "http://127.0.0.1/v1/responses", headers={key: f"Bearer {API_KEY}"})
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.Response(status, content=raw, headers=headers or {}, request=request)


# ---- the text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            {"error_code": "INVALID_PARAMETER_VALUE", "message": "No such model"},
            "INVALID_PARAMETER_VALUE: No such model.",
        ),
        ({"error": {"code": "bad", "message": "No such model!"}}, "bad: No such model!"),
        ({"error": {"error_code": "BAD", "message": "no"}}, "BAD: no."),
        ({"error": {"message": "no"}, "error_code": "BAD"}, "BAD: no."),
        ({"error": "just text"}, "just text."),
        ({"code": "bad", "message": "it is bad: no"}, "it is bad: no."),
        ({"code": 1000, "message": "no"}, "1000: no."),
        ({"detail": "Not Found"}, '{"detail": "Not Found"}.'),
        (["a", "b"], "['a', 'b']."),
        (b"<h1>Bad\n\n gateway</h1>", "<h1>Bad gateway</h1>."),
        (b"", "Bad Request."),
    ],
)
def test_what_is_said_is_found_wherever_it_is(body: Any, text: str) -> None:
    assert read_error_response(answered(body), body if isinstance(body, dict) else None).text == text


def test_the_sdk_hands_on_the_inner_error_alone() -> None:
    inner = {"code": "bad", "message": "No such model"}
    assert read_error_response(answered({"error": inner}), inner).text == "bad: No such model."


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([400, 404, 500, 599]))
def test_any_bytes_are_read(body: bytes, status: int) -> None:
    refusal = read_error_response(answered(body, status), None)
    assert refusal.status_code == status
    assert refusal.text.endswith((".", "!", "?"))


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["error", "message", "code", "error_code", "x"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_is_read(body: Any) -> None:
    assert read_error_response(answered(body), body).text.endswith((".", "!", "?"))


def test_a_novel_is_cut() -> None:
    assert len(read_error_response(answered(b"x" * 100_000), None).text) <= 601


@pytest.mark.parametrize("key", ["authorization", "api-key"])
def test_the_credentials_of_the_request_are_taken_out(key: str) -> None:
    refusal = read_error_response(answered({"message": f"who is {API_KEY}?"}, key=key), None)
    assert refusal.text == "who is [redacted]?"


# ---- Retry-After


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after_in_seconds(header: str, seconds: float | None) -> None:
    assert read_error_response(answered({}, 429, {"retry-after": header}), {}).retry_after_s == seconds


def test_retry_after_as_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    seconds = read_error_response(answered({}, 429, {"retry-after": in_a_minute}), {}).retry_after_s
    assert seconds is not None
    assert 50 < seconds <= 60


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 21 Oct 2015 07:28:00", None), ("Wed, 99 Oct", None)],
)
def test_retry_after_as_a_date_that_says_nothing(header: str, seconds: float | None) -> None:
    assert read_error_response(answered({}, 429, {"retry-after": header}), {}).retry_after_s == seconds


def test_no_retry_after() -> None:
    assert read_error_response(answered({}, 429), {}).retry_after_s is None


# ---- advice


# docs/wire.md: Errors.
KNOWN = {
    "Error: Please ensure AI Gateway V2 is enabled for this workspace": "ask its admin to enable it",
    "Parameter not supported when tools are provided: temperature": "Leave temperature, top_p",
    "function tool 'name' must match ^[a-zA-Z0-9_-]{1,64}$": "Rename the function",
    "No tool output found for function call call_1.": "a call without its output",
    "No tool call found for function call output with call_id call_1.": "an output without its call",
    "INVALID_PARAMETER_VALUE: the model does not exist": "Check the model's name",
    "Credential for user identity a@b.c is not found for the connection web. Please login first to the "
    "connection by visiting https://workspace/explore/connections/web": "Log in to the connection at the address",
}


@pytest.mark.parametrize(("text", "advice"), KNOWN.items())
def test_known_errors_come_with_advice(text: str, advice: str) -> None:
    assert advice in advice_for(text)
    assert advice in advice_for(text.upper())


def test_an_unknown_error_comes_without_advice() -> None:
    assert advice_for("the moon is full") == ""


# ---- what a failure proves


def wrapped(cause: BaseException) -> openai.APIConnectionError:
    """The exception as the SDK raises it."""
    try:
        try:
            raise cause
        except BaseException as error:
            request = httpx2.Request("POST", "http://127.0.0.1/")
            raise openai.APIConnectionError(request=request) from error
    except openai.APIConnectionError as error:
        return error


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("name", ["ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"])
def test_what_never_connected_was_not_sent(library: Any, name: str) -> None:
    assert is_unsent(wrapped(getattr(library, name)("no"))) == "connection"


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    "name", ["ReadTimeout", "WriteTimeout", "ReadError", "WriteError", "RemoteProtocolError"]
)
def test_what_broke_on_the_way_may_have_arrived(library: Any, name: str) -> None:
    assert is_unsent(wrapped(getattr(library, name)("no"))) is None


def test_a_failed_second_connection_does_not_excuse_the_first() -> None:
    """A read error while handling which the client could not connect again: the first may have arrived."""
    late = httpx2.ReadError("cut")
    late.__context__ = httpx2.ConnectError("no")
    assert is_unsent(wrapped(late)) is None


def test_nothing_is_known_of_any_other_failure() -> None:
    assert is_unsent(ValueError("what?")) is None
    assert is_unsent(httpx2.LocalProtocolError("Too little data for declared Content-Length")) is None


async def test_a_token_that_cannot_be_fetched_was_not_sent() -> None:
    class Auth(httpx2.Auth):
        def auth_flow(self, request: Any) -> Any:
            raise ConnectionError("the token service is away")
            yield request

    async with serving(ScriptedService([Answer(body={"id": "resp_1"})])) as service:
        http = httpx2.AsyncClient(verify=False, trust_env=False, auth=Auth())
        client = openai.AsyncOpenAI(base_url=service.url, api_key="x", http_client=http)
        with pytest.raises(ConnectionError) as failed:
            await client.post("/responses", cast_to=httpx2.Response, body={})
        assert service.requests == []
    assert is_unsent(failed.value) == "credentials"
