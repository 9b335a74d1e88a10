"""The node that submits a round of a turn: at most one POST, whatever happens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import interrupt

from ..approvals.decisions import record_decision, resubmit_id
from ..approvals.interrupts import PendingAction, answer_schema, interrupt_value, read_answer
from ..client.dialect import DEFAULT, Dialect
from ..client.failures import NotAccepted
from ..client.responses import ServiceResponse
from ..errors import (
    InvalidAnswerError,
    RequestRejectedError,
    ServiceRetiredError,
    SubmissionUnknownError,
    TurnEndedError,
)
from ..items.history import request_input
from ..ledger import EffectKey
from ..ledger.run_once import Done, Unknown, run_once
from ..polling import Retry
from ..run import Run, run_of
from ..settings import Settings
from ..state import Job, SupervisorState
from .transitions import fail_turn, is_latest

logger = logging.getLogger(__name__)

REFUSED_PATIENCE_S = 4.0
OVERLOADED_PATIENCE_S = 60.0
MOST_ATTEMPTS = 3


async def submit(state: SupervisorState, config: RunnableConfig) -> dict[str, Any]:
    """Submit the round, or find that it was submitted already.

    Raises:
        ServiceError: Nothing was submitted, the turn is kept; the message says what to do.
    """
    run, job = run_of(config), state["job"]
    try:
        result = await _submitted(run, job, state["messages"])
    except (RequestRejectedError, ServiceRetiredError) as error:
        return await fail_turn(run, job, error)
    except TurnEndedError as error:
        if not await is_latest(run, job["turn_id"]):
            raise
        return await fail_turn(
            run, job, error
        )  # It was ended for another question, which then opened no turn.
    if isinstance(result, Unknown):
        return await _unknown(run, job, result)
    now = result.outcome.get("at", run.time.now())
    submitted: Job = {
        **job,
        "response_id": result.outcome["response_id"],
        "status": result.outcome["status"],
        "submitted_at": now,
        "news_at": now,
        "delivered": 0,
        "polls": 0,
        "permit": None,
        "complaint": None,
    }
    return {"job": submitted}


def request_body(
    settings: Settings,
    messages: Sequence[BaseMessage],
    tools: Sequence[dict[str, Any]] = (),
    dialect: Dialect = DEFAULT,
) -> dict[str, Any]:
    """The request for a background response (docs/wire.md: Submit).

    Args:
        settings: The graph's settings.
        messages: The conversation.
        tools: The caller's own function tools, beside the graph's.
        dialect: What the service wants.
    """
    body: dict[str, Any] = {
        "model": settings.model,
        "input": request_input(messages, dialect.history),
        "background": True,
        "stream": False,
        **dialect.body,
        **settings.parameters,
    }
    if settings.instructions:
        body["instructions"] = settings.instructions
    if settings.tools or tools:
        body["tools"] = [*settings.tools, *tools]
    return body


async def _submitted(run: Run, job: Job, messages: Sequence[BaseMessage]) -> Done | Unknown:
    permit = job.get("permit")
    retry = Retry(run.time.random)
    while True:
        try:
            result = await _post_once(run, job, messages, permit)
        except NotAccepted as refused:
            if refused.stale_credentials and retry.refresh_login():
                run.clients.invalidate(run.settings.identity)
                continue
            delay = retry.failed(run.time.now(), refused.retry_after_s)
            patience = OVERLOADED_PATIENCE_S if refused.error.status_code else REFUSED_PATIENCE_S
            if not refused.retryable or retry.waited_s > patience:
                raise refused.error from None
            await run.time.sleep(delay)
            continue
        if isinstance(result, Done):
            return result
        if (found := await _find(run, job, result)) is not None:
            return found
        may_repeat = run.settings.on_unknown_submission == "resubmit"
        if not may_repeat or result.attempt >= MOST_ATTEMPTS:
            return result
        permit = result.attempt


async def _find(run: Run, job: Job, unknown: Unknown) -> Done | None:
    """The outcome of a POST whose answer was lost, recorded, if the service has its response."""
    client = await run.client()
    response = await client.find(_submission(job), timeout_s=run.settings.retrieve_timeout_s)
    if response is None:
        return None
    outcome = _outcome(response, unknown.claimed_at)
    await run.ledger.record(_key(job), unknown.attempt, outcome)
    logger.info("event=submission_settled thread=%s response_id=%s", run.thread, response.id)
    return Done(outcome, now=False)


async def _post_once(
    run: Run, job: Job, messages: Sequence[BaseMessage], permit: int | None
) -> Done | Unknown:
    """Claim, POST, record.

    Raises:
        NotAccepted: Nothing was created; the claim was given back.
    """
    key = _key(job)
    timeout_s = run.settings.create_timeout_s
    client = await run.client()  # Before the claim: building it can take longer than a claim lasts.
    if job["round"] == 0:
        await run.stored()

    async def post(attempt: int) -> dict[str, Any]:
        response = await client.create(
            request_body(run.settings, messages, job.get("tools", ()), client.dialect),
            headers=_headers(run),
            idempotency_key=f"{key.turn_id}-{key.round}-{attempt}",
            submission=_submission(job),
            timeout_s=timeout_s,
        )
        return _outcome(response, run.time.now())

    async def cancel(outcome: dict[str, Any]) -> None:
        await client.cancel(outcome["response_id"], timeout_s=timeout_s)

    return await run_once(
        run.ledger,
        key,
        post,
        lifetime_s=timeout_s,
        did_nothing=lambda error: isinstance(error, NotAccepted),
        permit=permit,
        on_late=cancel,
    )


def _key(job: Job) -> EffectKey:
    return EffectKey(job["turn_id"], job["round"], "submit")


def _submission(job: Job) -> str:
    """What makes two submissions the same, for the service."""
    return f"{job['turn_id']} {job['round']}"


def _outcome(response: ServiceResponse, submitted_at: float) -> dict[str, Any]:
    return {"response_id": response.id, "status": response.status, "at": submitted_at}


def _headers(run: Run) -> dict[str, str]:
    try:
        return dict(run.headers())
    except Exception as error:  # A tracing error must not fail the job.
        logger.warning("event=no_request_headers thread=%s reason=%s", run.thread, type(error).__name__)
        return {}


async def _unknown(run: Run, job: Job, unknown: Unknown) -> dict[str, Any]:
    """Ask a person, or end the turn: an unknown outcome is never guessed."""
    when = datetime.fromtimestamp(unknown.claimed_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    known = f"The question was sent at {when}, and what became of it is not known ({unknown.reason})."
    if run.settings.on_unknown_submission == "ask" and run.resumable:
        action = PendingAction(
            id=resubmit_id(unknown.attempt),
            name="resubmit_job",
            args={"known": known, "attempt": unknown.attempt},
            description=f"{known}\nApprove to send it again (if it did arrive, it then runs twice). "
            "Reject to give it up.",
        )
        answer = interrupt(
            interrupt_value("repeat_submission", [action], None, job.get("complaint")),
            response_schema=answer_schema([action.id]),
        )
        try:
            given = read_answer(answer, [action.id])[action.id]
        except InvalidAnswerError as invalid:
            return {"job": {**job, "complaint": str(invalid)}}
        given["asked"] = action.asked
        decision = await record_decision(run.ledger, job["turn_id"], (job["round"], action.id), given)
        if decision["approve"]:
            return {"job": {**job, "permit": unknown.attempt, "complaint": None}}
        reason = decision.get("reason")
        known += f" A person decided not to send it again{f' ({reason})' if reason else ''}."
    error = SubmissionUnknownError(
        f"{known} It was not sent again: a second job may cost twice and act twice. "
        "The thread keeps the question. Send the message again to start a new job."
    )
    return await fail_turn(run, job, error)
