"""Errors: what a client of the Responses API is told."""

from __future__ import annotations

import inspect
import json

import pytest

from agent_server.http.errors import ApiError, api_error_of
from databricks_supervisor import errors
from databricks_supervisor.errors import SupervisorError

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, SupervisorError) and not kind.__subclasses__()
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_the_library_has_a_status_and_a_code_of_its_own(kind: type[SupervisorError]) -> None:
    error = api_error_of(kind("What happened, and what to do."))
    assert 400 <= error.status < 600
    assert error.status != 500
    assert error.message == "What happened, and what to do."
    assert error.code != "unavailable"


def test_the_body_is_the_one_that_clients_read() -> None:
    assert ApiError(400, "c", "m", param="input").body == {
        "error": {"message": "m", "type": "invalid_request_error", "code": "c", "param": "input"}
    }
    assert ApiError(503, "c", "m").body["error"]["type"] == "server_error"


def test_who_is_told_to_wait_is_told_how_long() -> None:
    assert api_error_of(errors.ThreadBusyError("busy")).headers == {"Retry-After": "5"}
    overloaded = errors.ServiceUnavailableError("too many", status_code=429)
    assert (api_error_of(overloaded).status, api_error_of(overloaded).headers) == (429, {"Retry-After": "10"})


def test_what_nobody_expected_is_told_without_credentials() -> None:
    error = api_error_of(RuntimeError("Bearer dapi0123456789abcdef0123456789abcdef\nat x"))
    assert error.status == 503
    assert "dapi0123" not in error.message
    assert "\n" not in error.message


def test_what_the_service_says_need_not_be_unicode() -> None:
    error = api_error_of(errors.RequestRejectedError("half \ud83d"))
    assert "half ?" in json.dumps(error.body, ensure_ascii=False).encode().decode()
