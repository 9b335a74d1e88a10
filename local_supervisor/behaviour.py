"""Behaviours: how the service treats one request, including faults, and how a request selects one."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ApiError

Fault = int | str | dict[str, Any]
"""A status (`503`), `"drop"`, `"garbage"`, `"timeout:SECONDS"`, or `{"status", "code", "message"}`."""

_OPENING = "[[local:"
_CLOSING = "]]"


class CallSpec(BaseModel):
    """A tool call at the end of a job: an approval request or a client-side function call."""

    model_config = ConfigDict(extra="forbid")

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    server_label: str = "local"
    id: str | None = None
    result: str | None = None


class Behaviour(BaseModel):
    """Options of the service for one request. README.md has the same list with examples.

    Attributes:
        accept_delay_s: Seconds before the job exists.
        answer_delay_s: Seconds between the job's creation and the response to the POST.
        drop_create: Drops the connection of every such POST, "before" or "after" the job was created.
        create_errors: Faults, one for each POST with this question, instead of accepting it.
        create_errors_accept: The POSTs with a fault create a job too.
        create_error_forever: One fault for every POST.
        garbage_create: The job is created; the response is a 200 whose body is not JSON.
        retry_after: Seconds, in the header of every 429 and 503.
        initial_status: Status until the work begins.
        instant: The response to the POST is already terminal.
        honour_idempotency_key: The same `Idempotency-Key` returns the same job.
        lenient: Accepts nulls, unknown keys and calls without an output in the input.

        duration_s: Seconds until the job ends (default: by the number of items, 7 at most).
        speed: Divides the duration.
        polls_to_finish: The job advances by the number of retrieves, not by the clock.
        first_retrieve_delay_s: Seconds before the response to the first GET.
        retrieve_delay_s: Seconds before the response to every GET.

        echo: How the output repeats the history of the input at its beginning.
        long_ids: Length of response and item ids.
        long_call_ids: Length of call ids.
        unfinished: Items have an unfinished phase, without an id.
        out_of_order: A later item is complete while an earlier one is unfinished.
        null_output: `null` instead of an empty output.
        final_item_without_id: The last item never gets an id.
        last_item_unfinished: The last item stays in progress.
        unknown_items: Number of items of an unknown type.

        final_status: Any string; a status that is not terminal lasts for ever.
        error: The response's error, with a `final_status` other than "completed".
        error_in_completed: Sends the error with "completed" too.
        incomplete_details: As in the response.

        retrieve_errors: Faults, one for each GET of the job.
        retrieve_error_forever: One fault for every GET.
        not_found_first: Number of first GETs with a 404.
        expires_after_s: 404 once the job is that old.
        cancel: "supported", or the fault for a cancel.

        items: The output items, instead of the demonstration.
        reply: Text of a message, after `items`.
        reply_words: Number of words of a message.
        approvals: The job ends with these approval requests.
        calls: The job ends with these calls of client-side functions.
        rounds: Behaviours of the follow-ups of the same turn, in order.
    """

    model_config = ConfigDict(extra="forbid")

    accept_delay_s: float = 0.0
    answer_delay_s: float = 0.0
    drop_create: Literal["before", "after"] | None = None
    create_errors: list[Fault] = Field(default_factory=list)
    create_errors_accept: bool = False
    create_error_forever: Fault | None = None
    garbage_create: bool = False
    retry_after: float | None = None
    initial_status: str = "queued"
    instant: bool = False
    honour_idempotency_key: bool = False
    lenient: bool = False

    duration_s: float | None = Field(default=None, ge=0)
    speed: float = Field(default=1.0, gt=0)
    polls_to_finish: int | None = Field(default=None, ge=1)
    first_retrieve_delay_s: float = 0.0
    retrieve_delay_s: float = 0.0

    echo: Literal["none", "same_ids", "new_ids", "no_ids"] = "same_ids"
    long_ids: int | None = Field(default=None, ge=40, le=4096)
    long_call_ids: int | None = Field(default=None, ge=40, le=4096)
    unfinished: bool = False
    out_of_order: bool = False
    null_output: bool = False
    final_item_without_id: bool = False
    last_item_unfinished: bool = False
    unknown_items: int = 0

    final_status: str = "completed"
    error: dict[str, Any] | None = None
    error_in_completed: bool = False
    incomplete_details: dict[str, Any] | None = None

    retrieve_errors: list[Fault] = Field(default_factory=list)
    retrieve_error_forever: Fault | None = None
    not_found_first: int = 0
    expires_after_s: float | None = None
    cancel: Fault = "supported"

    items: list[dict[str, Any]] | None = None
    reply: str | None = None
    reply_words: int | None = None
    approvals: list[CallSpec] = Field(default_factory=list)
    calls: list[CallSpec] = Field(default_factory=list)
    rounds: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def scripted(self) -> bool:
        """Whether the behaviour has the content, so that the demonstration is not used."""
        return (
            self.items is not None
            or self.reply is not None
            or self.reply_words is not None
            or bool(self.approvals or self.calls)
        )


_CARRIED = {
    "honour_idempotency_key", "lenient", "duration_s", "speed", "polls_to_finish", "echo", "long_ids",
    "long_call_ids", "unfinished", "out_of_order", "null_output", "instant", "initial_status",
}  # fmt: skip
"""Fields of a directive that apply to its turn's follow-ups too: timing and form, not faults or content."""


def parse(fields: dict[str, Any]) -> Behaviour:
    """Read a behaviour from JSON.

    Raises:
        ApiError: A field is unknown or has the wrong type. (A typo must not silently select the default.)
    """
    try:
        return Behaviour.model_validate(fields)
    except ValidationError as error:
        raise ApiError(400, f"behaviour: {error}") from None


def split_directives(text: str) -> tuple[str, dict[str, Any]]:
    """Remove every `[[local: {...}]]` from a text.

    Returns:
        The text without them, and their fields merged in order.

    Raises:
        ApiError: A directive is not valid JSON.
    """
    fields: dict[str, Any] = {}
    while (start := text.find(_OPENING)) >= 0:
        at = start + len(_OPENING)
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            found, end = json.JSONDecoder().raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise ApiError(400, f"behaviour: the directive is not JSON: {error}") from None
        rest = text[end:].lstrip()
        if not isinstance(found, dict) or not rest.startswith(_CLOSING):
            raise ApiError(400, 'behaviour: a directive looks like [[local: {"reply": "hello"}]]')
        fields.update(found)
        text = (text[:start].rstrip() + " " + rest[len(_CLOSING) :].lstrip()).strip()
    return text, fields


def choose(default: dict[str, Any], directive: dict[str, Any], round_number: int) -> Behaviour:
    """The behaviour of one request.

    Args:
        default: The server's default fields.
        directive: The fields from the last user message, which is the same in every round of a turn.
        round_number: 0 for the question, 1 for the first follow-up, and so on.
    """
    if round_number == 0:
        return parse({**default, **directive})
    parse({**default, **directive})
    carried = {key: value for key, value in directive.items() if key in _CARRIED}
    rounds = directive.get("rounds") or default.get("rounds") or []
    own = rounds[round_number - 1] if round_number <= len(rounds) else {}
    without_content = {
        key: value
        for key, value in default.items()
        if key not in {"items", "reply", "reply_words", "approvals", "calls", "rounds"}
    }
    return parse({**without_content, **carried, **own})
