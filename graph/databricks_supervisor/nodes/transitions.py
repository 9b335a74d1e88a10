"""How a turn moves on: to its next round, or to an end without an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from .. import errors
from ..client.failures import advice_for
from ..errors import JobError, ServiceError, SupervisorError, TooManyRoundsError
from ..ledger import Turn
from ..redaction import scrub
from ..run import Run
from ..state import Job, JobFailure


async def fail_turn(run: Run, job: Job, error: SupervisorError) -> dict[str, Any]:
    """The state update for a turn that ends without its answer.

    With ``on_failure="raise"`` the failure goes into the state; the next pass of ``poll`` ends the turn and raises
    it, so a resumed thread raises the same error. With ``"message"`` the failure becomes the answer.
    """
    said = run.settings.on_failure == "message"
    failure: JobFailure = {"kind": type(error).__name__, "message": str(error), "said": said}
    if isinstance(error, ServiceError):
        failure["status_code"] = error.status_code
    ended: Job = {**job, "failure": failure, "ended": True, "permit": None}
    if not said:
        return {"job": ended}
    await run.ledger.end_turn(job["turn_id"])
    message = AIMessage(
        content=str(error),
        id=f"{job['turn_id']}:failure",
        response_metadata={"error": failure["kind"], "response_id": job.get("response_id")},
    )
    return {"messages": [message], "job": ended}


async def is_superseded(run: Run, turn_id: str) -> bool:
    """Whether another turn has followed, so that the thread's state belongs to that one.

    A turn that the ledger does not know (its database is lost) is not superseded: its job can still be read.
    """
    latest = await _latest_turn(run, turn_id)
    return latest is not None and latest.turn_id != turn_id


async def is_latest(run: Run, turn_id: str) -> bool:
    """Whether this is the latest turn of its thread; ``False`` also if the thread was deleted."""
    latest = await _latest_turn(run, turn_id)
    return latest is not None and latest.turn_id == turn_id


async def _latest_turn(run: Run, turn_id: str) -> Turn | None:
    turn = await run.ledger.get_turn(turn_id)
    return await run.ledger.latest_turn(turn.thread, turn.position) if turn is not None else None


async def raise_failure(run: Run, job: Job, failure: JobFailure) -> None:
    """End the turn and raise the recorded failure."""
    await run.ledger.end_turn(job["turn_id"])
    kind: type[SupervisorError] = getattr(errors, failure["kind"], SupervisorError)
    error = kind(failure["message"])
    if isinstance(error, JobError):
        error.response_id, error.status = job.get("response_id"), job.get("status")
    if isinstance(error, ServiceError):
        error.status_code = failure.get("status_code")
    raise error


def failure_of_status(response_id: str, body: Mapping[str, Any], delivered: int) -> JobError | None:
    """The error of a terminal response; ``None`` if it has an answer.

    Args:
        response_id: Id of the job.
        body: The response.
        delivered: How many output items of an answer it has delivered.
    """
    status = str(body.get("status") or "completed")
    said = _error_text(body.get("error"))
    details: dict[str, Any] = {"response_id": response_id, "status": status}
    kept = "What it delivered before is in the thread. " if delivered else ""
    again = "Send the message again to start a new job."
    if status == "failed" or (status == "completed" and said):
        text = said or "no explanation was given."
        return errors.JobFailedError(
            f"Job {response_id} failed: {text}{advice_for(text)} {kept}{again}", **details
        )
    if status == "cancelled":
        return errors.JobCancelledError(f"Job {response_id} was cancelled. {kept}{again}", **details)
    if status == "incomplete" and not delivered:
        reason = body.get("incomplete_details")
        why = reason.get("reason") if isinstance(reason, Mapping) else None
        return errors.JobIncompleteError(
            f"Job {response_id} ended incomplete ({why or 'no reason given'}) before it delivered anything. "
            f"{again}",
            **details,
        )
    if not delivered:
        return errors.JobFailedError(f"Job {response_id} completed without any output. {again}", **details)
    return None


def _error_text(error: object) -> str:
    if not error:
        return ""
    if isinstance(error, Mapping):
        code, message = error.get("code") or error.get("error_code"), error.get("message")
        text = f"{code}: {message}" if code and message else str(message or code or dict(error))
    else:
        text = str(error)
    text = scrub(" ".join(text.split()))
    return text if text.endswith((".", "!", "?")) else f"{text}."


async def start_next_round(run: Run, job: Job, messages: Sequence[Any]) -> dict[str, Any]:
    """The state update that starts the turn's next round: another submission."""
    if job["round"] + 1 < run.settings.max_rounds:
        following: Job = {**job, "round": job["round"] + 1, "response_id": None, "status": "new"}
        return {"messages": list(messages), "job": following}
    error = TooManyRoundsError(
        f"The turn went through {run.settings.max_rounds} rounds of approvals and function calls without an "
        "answer, which is the cap (max_rounds). The thread has everything so far. Send a new message to go on "
        "from there.",
        response_id=job.get("response_id"),
        status=job.get("status"),
    )
    ended = await fail_turn(run, job, error)
    said: list[BaseMessage] = ended.get("messages", [])
    return {"messages": [*messages, *said], "job": ended["job"]}
