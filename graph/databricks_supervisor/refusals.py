"""Reading what a service says when it refuses, and what a failed exchange proves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from .errors import scrub

__all__ = ["Refusal", "explain", "is_unsent", "read_refusal", "scrub_answer"]

_LONGEST_TEXT = 600
_BEFORE_SENDING = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})
# Where credentials are obtained: in httpx, in the Databricks SDK, and in the OpenAI SDK.
_OBTAINING = frozenset({"auth_flow", "authenticate", "_prepare_options", "_prepare_request"})
_WHILE_SENDING = frozenset(
    {"ReadError", "WriteError", "CloseError", "ReadTimeout", "WriteTimeout", "RemoteProtocolError"}
)

# CONTRACT: Errors to recognise. What to do about each, matched by a part of the text.
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
class Refusal:
    """An answer with an error status.

    Attributes:
        status_code: HTTP status.
        text: What the service said, without credentials, ending with a full stop.
        retry_after_s: ``Retry-After`` in seconds, if it was given.
    """

    status_code: int
    text: str
    retry_after_s: float | None = None


def read_refusal(response: Any, body: object) -> Refusal:
    """Read an error answer; Databricks says ``error_code`` and ``message``, OpenAI ``error: {…}``."""
    text = " ".join(scrub_answer(_text_of(body, response), response).split())[:_LONGEST_TEXT]
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    return Refusal(response.status_code, text, _retry_after(response.headers.get("retry-after")))


def scrub_answer(text: str, response: Any) -> str:
    """Take out of an answer's text the credentials that its request was sent with, and all that look like some."""
    headers = response.request.headers
    return scrub(text, headers.get("authorization", ""), headers.get("api-key", ""))


def explain(text: str) -> str:
    """What to do about a known error text, with a space before it; ``""`` for an unknown one.

    Example:
        >>> explain("INVALID_PARAMETER_VALUE: no such model")
        " Check the model's name and the tools' settings against what the workspace has."
    """
    for part, advice in _ADVICE:
        if part.lower() in text.lower():
            return f" {advice}"
    return ""


def is_unsent(error: BaseException) -> Literal["connection", "credentials"] | None:
    """Whether a failed exchange proves that no byte of the request was sent, and why.

    Connecting failed, or no connection was free: those exceptions are named alike in httpx and its
    successor, either of which a client of the OpenAI SDK may carry. Or the credentials could not be
    obtained or cannot be sent (a line break in a token), which shows before the request is written.
    """
    for link in _chain(error):
        if type(link).__name__ in _BEFORE_SENDING:
            return "connection"
        if type(link).__name__ in _WHILE_SENDING:
            return None
        if str(link).startswith("Illegal header") or not _OBTAINING.isdisjoint(_frames(link)):
            return "credentials"
    return None


def _text_of(body: object, response: Any) -> str:
    if not isinstance(body, dict):
        # The SDK unwraps OpenAI's `error`, and gives nothing for a body that is no JSON.
        try:
            body = json.loads(response.content)
        except ValueError:
            return response.text or response.reason_phrase or "no explanation"
    if not isinstance(body, dict):
        return str(body)
    inner = body.get("error")
    said = inner if isinstance(inner, dict) else body
    code = said.get("error_code") or said.get("code") or body.get("error_code")
    message = said.get("message") or (inner if isinstance(inner, str) else None) or json.dumps(body)
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
