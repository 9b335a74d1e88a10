"""The node that submits a round of a turn: at most one POST, whatever happens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import interrupt

from .approvals import Question, answer_schema, ask, read_answer
from .client import NotAccepted, Reply
from .decisions import record_decision
from .effects import Done, Nothing, Unknown, once
from .endings import end_without_answer, was_followed
from .errors import (
    InvalidAnswerError,
    RequestRejectedError,
    ServiceRetiredError,
    SubmissionUnknownError,
    TurnEndedError,
)
from .items.history import request_input
from .ledger import EffectKey
from .run import Run, run_of
from .schedule import retry_delay
from .settings import Settings
from .state import Job, SupervisorState

__all__ = ["request_body", "submit"]

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
        return await end_without_answer(run, job, error)
    except TurnEndedError as error:
        if await was_followed(run, job["turn_id"]):
            raise
        return await end_without_answer(
            run, job, error
        )  # Given up for a message that never came to its turn.
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
    settings: Settings, messages: Sequence[BaseMessage], tools: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """The request for a background response (CONTRACT: Submit).

    Args:
        settings: The graph's settings.
        messages: The conversation.
        tools: Function tools of whoever asks, beside the graph's own.
    """
    body: dict[str, Any] = {
        "model": settings.model,
        "input": request_input(messages),
        "background": True,
        "stream": False,
        **settings.parameters,
    }
    if settings.instructions:
        body["instructions"] = settings.instructions
    if settings.tools or tools:
        body["tools"] = [*settings.tools, *tools]
    return body


async def _submitted(run: Run, job: Job, messages: Sequence[BaseMessage]) -> Done | Unknown:
    key = EffectKey(job["turn_id"], job["round"], "submit")
    settings, permit = run.settings, job.get("permit")
    failures, waited, refreshed = 0, 0.0, False

    async def post(attempt: int) -> dict[str, Any]:
        client = await _client(run)
        try:
            reply = await client.create(
                request_body(settings, messages, job.get("tools", ())),
                headers=_headers(run),
                idempotency_key=f"{key.turn_id}-{key.round}-{attempt}",
                timeout_s=settings.create_timeout_s,
            )
        except NotAccepted as refused:
            raise Nothing(refused) from None
        return _outcome(reply, run.time.now())

    async def cancel(outcome: dict[str, Any]) -> None:
        client = await run.client()
        await client.cancel(outcome["response_id"], timeout_s=settings.create_timeout_s)

    while True:
        try:
            await run.client()  # Built before the claim: it can take longer than a claim lives.
            if job["round"] == 0:
                await run.stored()
            result = await once(
                run.ledger, key, post, lifetime_s=settings.create_timeout_s, permit=permit, on_late=cancel
            )
        except NotAccepted as refused:
            if refused.stale_credentials and not refreshed:
                refreshed = True
                run.clients.forget(settings.identity)
                continue
            failures += 1
            delay = retry_delay(failures, refused.retry_after_s, run.time.random)
            patience = OVERLOADED_PATIENCE_S if refused.error.status_code else REFUSED_PATIENCE_S
            if not refused.again or waited + delay > patience:
                raise refused.error from None
            waited += delay
            await run.time.sleep(delay)
            continue
        if (
            isinstance(result, Unknown)
            and settings.on_unknown_submission == "resubmit"
            and result.attempt < MOST_ATTEMPTS
        ):
            permit = result.attempt
            continue
        return result


def _headers(run: Run) -> dict[str, str]:
    try:
        return dict(run.headers())
    except Exception as error:  # Nothing that only watches may hurt a job.
        logger.warning("event=no_request_headers thread=%s reason=%s", run.thread, type(error).__name__)
        return {}


async def _client(run: Run) -> Any:
    try:
        return await run.client()
    except Exception as error:
        raise Nothing(error) from None


def _outcome(reply: Reply, now: float) -> dict[str, Any]:
    return {"response_id": reply.id, "status": reply.status, "at": now}


async def _unknown(run: Run, job: Job, unknown: Unknown) -> dict[str, Any]:
    """Ask a person, or give up: an outcome that is unknown is never guessed."""
    when = datetime.fromtimestamp(unknown.claimed_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    known = f"The question was sent at {when}, and what became of it is not known ({unknown.reason})."
    if run.settings.on_unknown_submission == "ask" and run.resumable:
        question = Question(
            id=f"resubmit_{unknown.attempt}",
            name="resubmit_job",
            args={"known": known, "attempt": unknown.attempt},
            description=f"{known}\nApprove to send it again (if it did arrive, it then runs twice). "
            "Reject to give it up.",
        )
        answer = interrupt(
            ask("repeat_submission", [question], None, job.get("complaint")),
            response_schema=answer_schema([question.id]),
        )
        try:
            decision = read_answer(answer, [question.id])[question.id]
        except InvalidAnswerError as invalid:
            return {"job": {**job, "complaint": str(invalid)}}
        decision = {**decision, "asked": {"name": question.name, "args": question.args}}
        decision = await record_decision(run.ledger, job["turn_id"], job["round"], question.id, decision)
        if decision["approve"]:
            return {"job": {**job, "permit": unknown.attempt, "complaint": None}}
        reason = decision.get("reason")
        known += f" A person decided not to send it again{f' ({reason})' if reason else ''}."
    error = SubmissionUnknownError(
        f"{known} It was not sent again: a second job may cost twice and act twice. "
        "The thread keeps the question. Send the message again to start a new job."
    )
    return await end_without_answer(run, job, error)
