"""Classifies failed exchanges: did a POST create anything, can a read be retried, and which error to raise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from ..errors import (
    AuthenticationError,
    PermissionDeniedError,
    RequestRejectedError,
    ServiceError,
    ServiceRetiredError,
    ServiceUnavailableError,
)
from ..redaction import scrub, scrub_answer

_MAX_TEXT = 600
_BEFORE_SENDING = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})
# Names of the functions that obtain credentials: in httpx, in the Databricks SDK, and in the OpenAI SDK.
_OBTAINING = frozenset({"auth_flow", "authenticate", "_prepare_options", "_prepare_request"})
_WHILE_SENDING = frozenset(
    {"ReadError", "WriteError", "CloseError", "ReadTimeout", "WriteTimeout", "RemoteProtocolError"}
)

# (part of the error text, advice). docs/wire.md: Errors.
_ADVICE = (
    (
        "Please ensure AI Gateway V2 is enabled",
        "AI Gateway is not enabled in this workspace: ask its admin to enable it.",
    ),
    (
        "Parameter not supported when tools are provided",
        "Leave temperature, top_p and other inference parameters out when there are tools.",
    ),
    ("function tool 'name' must match", "Rename the function: letters, digits, _ and - only, at most 64."),
    ("No tool output found for function call", "The history has a call without its output."),
    ("No tool call found for function call output", "The history has an output without its call."),
    (
        "Please login first to the connection",
        "Log in to the connection at the address above, then ask again.",
    ),
    (
        "INVALID_PARAMETER_VALUE",
        "Check the model's name and the tools' settings against what the workspace has.",
    ),
)


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """A response with an error status.

    Attributes:
        status_code: HTTP status.
        text: The service's error text, without credentials, ending with a full stop.
        retry_after_s: ``Retry-After`` in seconds, if it was given.
    """

    status_code: int
    text: str
    retry_after_s: float | None = None


def read_error_response(response: Any, body: object) -> ErrorResponse:
    """Read an error response: Databricks sends ``error_code`` and ``message``, OpenAI ``error: {…}``."""
    text = " ".join(scrub_answer(_error_text(body, response), response).split())[:_MAX_TEXT]
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    return ErrorResponse(response.status_code, text, _retry_after(response.headers.get("retry-after")))


def advice_for(text: str) -> str:
    """Advice for a known error text, after a space; ``""`` for an unknown text.

    Example:
        >>> advice_for("INVALID_PARAMETER_VALUE: no such model")
        " Check the model's name and the tools' settings against what the workspace has."
    """
    for part, advice in _ADVICE:
        if part.lower() in text.lower():
            return f" {advice}"
    return ""


def is_unsent(error: BaseException) -> Literal["connection", "credentials"] | None:
    """Whether it is certain that no byte of the request was sent, and why.

    ``"connection"``: connecting failed, or no connection was free (the exceptions have the same names in httpx and
    httpx2, and the OpenAI SDK may use either). ``"credentials"``: they could not be obtained, or cannot be sent (a
    line break in a token).
    """
    for link in _chain(error):
        if type(link).__name__ in _BEFORE_SENDING:
            return "connection"
        if type(link).__name__ in _WHILE_SENDING:
            return None
        if str(link).startswith("Illegal header") or not _OBTAINING.isdisjoint(_frames(link)):
            return "credentials"
    return None


def _error_text(body: object, response: Any) -> str:
    if not isinstance(body, dict):
        # The SDK unwraps OpenAI's `error`, and returns nothing for a body that is not JSON.
        try:
            body = json.loads(response.content)
        except ValueError:
            return response.text or response.reason_phrase or "no explanation"
    if not isinstance(body, dict):
        return str(body)
    inner = body.get("error")
    fields = inner if isinstance(inner, dict) else body
    code = fields.get("error_code") or fields.get("code") or body.get("error_code")
    message = fields.get("message") or (inner if isinstance(inner, str) else None) or json.dumps(body)
    return f"{code}: {message}" if code and str(code) not in str(message) else str(message)


def _retry_after(value: str | None) -> float | None:
    if not value:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _frames(error: BaseException) -> Iterator[str]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_name
        trace = trace.tb_next


class NotAccepted(Exception):
    """It is certain that the POST created nothing.

    Attributes:
        error: The error for the caller.
        retryable: Whether the same POST may succeed soon (429, connection refused).
        retry_after_s: Seconds to wait, if the service sent ``Retry-After``.
        stale_credentials: Whether new credentials may help (401).
    """

    def __init__(
        self,
        error: ServiceError,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
        stale_credentials: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.stale_credentials = stale_credentials


class OutcomeUnknown(Exception):
    """The POST was sent, and the response does not show whether it created anything."""


class AlreadyExists(OutcomeUnknown):
    """The service refused a POST because it has a response with the id that this side chose (409)."""


class Transient(Exception):
    """A read failed and can be retried.

    Attributes:
        retry_after_s: Seconds to wait, if the service sent ``Retry-After``.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def classify_create(refused: ErrorResponse) -> NotAccepted | OutcomeUnknown:
    """The exception for a POST with an error response."""
    code = refused.status_code
    if code == 429:
        error = ServiceUnavailableError(
            f"The service is overloaded (429): {refused.text} Nothing was submitted. "
            "Send the message again in a moment.",
            status_code=code,
        )
        return NotAccepted(error, retryable=True, retry_after_s=refused.retry_after_s)
    if code == 409 and "response_id_conflict" in refused.text:
        return AlreadyExists(f"the service answered {code}: {refused.text}")
    if code in (408, 409) or (code >= 500 and code != 501):
        return OutcomeUnknown(f"the service answered {code}: {refused.text}")
    return NotAccepted(_final_error(refused, "Nothing was submitted."), stale_credentials=code == 401)


def classify_retrieve(refused: ErrorResponse) -> Transient | ServiceError:
    """The exception for a GET with an error response."""
    code = refused.status_code
    if code in (408, 409, 425, 429) or (code >= 500 and code != 501):
        return Transient(f"the service answered {code}: {refused.text}", refused.retry_after_s)
    return _final_error(refused, "The job was not touched and the thread still knows it.")


def _final_error(refused: ErrorResponse, effect: str) -> ServiceError:
    code = refused.status_code
    if code == 401:
        return AuthenticationError(
            f"The service does not accept the credentials (401): {refused.text} {effect} "
            "Check the token or log in again, then resume the thread.",
            status_code=code,
        )
    if code == 403:
        return PermissionDeniedError(
            f"The service refuses access (403): {refused.text} {effect} "
            "Ask for the permission it names, then resume the thread.",
            status_code=code,
        )
    if code in (410, 501):
        return ServiceRetiredError(
            f"This endpoint is retired ({code}): {refused.text} {effect} Any service with background Responses "
            "can replace it: an agent on Databricks Apps, OpenAI, or a server of your own "
            "(give create_supervisor_graph another client_factory).",
            status_code=code,
        )
    return RequestRejectedError(
        f"The service refused the request ({code}): {refused.text} {effect}{advice_for(refused.text)}",
        status_code=code,
    )


def classify_unsent(error: Exception, host: str) -> NotAccepted:
    """The exception for an exchange that failed before the request was sent."""
    reason = is_unsent(error)
    if not reason:
        return NotAccepted(ServiceUnavailableError(describe(error)))
    if reason == "credentials":
        refused = AuthenticationError(
            f"No credentials could be obtained: {describe(error)}. Nothing was submitted. "
            "Log in again or check the token, then send the message again."
        )
        return NotAccepted(refused, stale_credentials=True)
    unreachable = ServiceUnavailableError(
        f"Cannot reach {scrub(host)}: {describe(error)}. Nothing was submitted. "
        "Check the address and the network, then send the message again."
    )
    return NotAccepted(unreachable, retryable="CERTIFICATE_VERIFY_FAILED" not in str(error.__cause__))


def describe(error: BaseException) -> str:
    """An error in one line, without credentials."""
    cause = error.__cause__ or error
    text = " ".join(scrub(str(cause)).split())
    if text.startswith(
        "Illegal header"
    ):  # The rest of the text quotes the header, which may contain the token.
        text = "a header cannot be sent (is there a line break in the token?)"
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__
