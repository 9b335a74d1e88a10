"""Errors as a client of the Responses API gets them: an HTTP status, a code, a message (docs/server.md: Errors).

A job that ended without its answer is no HTTP error: it is a response with the status ``failed``. OpenAI's clients
repeat a POST after a 5xx by themselves, and to repeat a turn that is over would start a second job.
"""

from __future__ import annotations

from typing import Any

from databricks_supervisor import errors
from databricks_supervisor.errors import SupervisorError
from databricks_supervisor.redaction import scrub


class ApiError(Exception):
    """An error, as an HTTP client is told it.

    Attributes:
        status: HTTP status.
        code: What happened, for programs.
        message: What happened, what was kept and what to do, for people. Free of credentials.
        param: The field of the request that is wrong, or ``None``.
        headers: Additional headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        message = message.encode(
            "utf-8", "replace"
        ).decode()  # What the service said may hold half a character.
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.headers = param, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The answer's body, as OpenAI's clients read it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {"message": self.message, "type": kind, "code": self.code, "param": self.param},
        }


def invalid_request(message: str, param: str | None) -> ApiError:
    """The error of a request that is wrong; param is the field that is."""
    return ApiError(400, "invalid_request", f"{message} Nothing was submitted.", param=param)


_BY_CLASS: list[tuple[type[SupervisorError], int, str]] = [
    (errors.InvalidInputError, 400, "invalid_input"),
    (errors.InvalidAnswerError, 400, "invalid_answer"),
    (errors.ConfigurationError, 503, "misconfigured"),
    (errors.NothingToResumeError, 404, "thread_not_found"),
    (errors.ThreadBusyError, 409, "thread_busy"),
    (errors.ThreadMovedError, 409, "thread_moved"),
    (errors.TurnMismatchError, 409, "turn_mismatch"),
    (errors.ForeignThreadError, 409, "foreign_thread"),
    (errors.TurnEndedError, 409, "turn_ended"),
    (errors.LedgerError, 503, "ledger_unavailable"),
    (errors.AuthenticationError, 401, "authentication_error"),
    (errors.PermissionDeniedError, 403, "permission_denied"),
    (errors.ServiceUnavailableError, 503, "service_unavailable"),
    (errors.ServiceRetiredError, 502, "service_retired"),
    (errors.RequestRejectedError, 400, "request_rejected"),
    (errors.SubmissionUnknownError, 502, "submission_unknown"),
    (errors.CallUnknownError, 502, "call_unknown"),
    (errors.JobFailedError, 502, "job_failed"),
    (errors.JobCancelledError, 502, "job_cancelled"),
    (errors.JobIncompleteError, 502, "job_incomplete"),
    (errors.JobNotFoundError, 502, "job_not_found"),
    (errors.JobTimeoutError, 504, "job_timeout"),
    (errors.TooManyRoundsError, 502, "too_many_rounds"),
]

BUSY_RETRY_S = 5
OVERLOADED_RETRY_S = 10


def api_error_of(error: BaseException) -> ApiError:
    """What a client is told about an error.

    Example:
        >>> from databricks_supervisor.errors import ThreadBusyError
        >>> api_error_of(ThreadBusyError("Thread t is busy.")).status
        409
    """
    if isinstance(error, ApiError):
        return error
    for kind, status, code in _BY_CLASS:
        if not isinstance(error, kind):
            continue
        if status == 409 and code == "thread_busy":
            return ApiError(status, code, str(error), headers={"Retry-After": str(BUSY_RETRY_S)})
        if getattr(error, "status_code", None) == 429:
            headers = {"Retry-After": str(OVERLOADED_RETRY_S)}
            return ApiError(429, "rate_limit_exceeded", str(error), headers=headers)
        return ApiError(status, code, str(error))
    what = " ".join(scrub(str(error)).split())
    return ApiError(
        503,
        "unavailable",
        f"{type(error).__name__}: {what[:500]} This was not expected. What was submitted is kept; "
        "send the same request again to go on with it.",
    )
