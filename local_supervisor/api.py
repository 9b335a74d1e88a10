"""The three routes of the contract: create, retrieve, cancel."""

from __future__ import annotations

import asyncio
import bisect
import hashlib
import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import conversation as conversations
from .behaviour import Behaviour, choose
from .connection import DroppedConnection
from .errors import ApiError, error_for
from .faults import error_response, fault_response, garbage_response, label
from .ids import IdFactory, new_response_id
from .jobs import Job, JobStore, now
from .plan import plan_output
from .script import TERMINAL, write_script
from .validate import check_request


class Api:
    """Answers requests from the store.

    Args:
        store: Jobs and counters.
        default_behaviour: Returns the behaviour's fields for everything that a request does not set.
        token: The only accepted bearer token; None accepts any.
        on_tool_runs: Called when a new job has tools to run.
    """

    def __init__(
        self,
        store: JobStore,
        default_behaviour: Callable[[], dict[str, Any]],
        token: str | None,
        on_tool_runs: Callable[[], None],
    ) -> None:
        self._store = store
        self._default_behaviour = default_behaviour
        self._token = token
        self._on_tool_runs = on_tool_runs

    async def create(self, request: Request) -> Response:
        """POST /responses."""
        self._store.count("posts")
        bearer = self._authorize(request)
        body = await _json(request)
        conversation = conversations.read(body)
        behaviour = choose(self._default_behaviour(), conversation.directive, conversation.round)
        if not body.get("background"):  # there are no polls in the foreground
            behaviour = behaviour.model_copy(update={"polls_to_finish": None})
        fault = self._next_create_fault(behaviour, conversation.raw_question, conversation.round)
        await asyncio.sleep(behaviour.accept_delay_s)
        if behaviour.drop_create == "before":
            return DroppedConnection()
        if fault is not None and not behaviour.create_errors_accept:
            return await fault_response(fault, behaviour.retry_after)
        check_request(body, behaviour.lenient)
        key = request.headers.get("idempotency-key")
        job = self._store.by_idempotency_key(key) if key and behaviour.honour_idempotency_key else None
        if job is None:
            job = self._new_job(
                body, conversation, behaviour, key, bearer, request.headers.get("traceparent")
            )
        await asyncio.sleep(behaviour.answer_delay_s)
        if behaviour.answer_delay_s and await request.is_disconnected():
            self._store.set_connection(job, "left")
            return DroppedConnection()
        if behaviour.drop_create == "after":
            self._store.set_connection(job, "dropped")
            return DroppedConnection()
        if fault is not None:
            self._store.set_connection(job, label(fault))
            return await fault_response(fault, behaviour.retry_after)
        if behaviour.garbage_create:
            self._store.set_connection(job, "garbage")
            return garbage_response()
        if not body.get("background"):
            await _wait_for_end(job)
        self._store.set_connection(job, "answered")
        return _answer(job)

    async def retrieve(self, request: Request) -> Response:
        """GET /responses/{id}."""
        self._authorize(request)
        job = self._job(request)
        behaviour = job.behaviour
        self._store.count_poll(job)
        poll = job.polls
        delay = behaviour.retrieve_delay_s + (behaviour.first_retrieve_delay_s if poll == 1 else 0.0)
        if delay:
            await asyncio.sleep(delay)
        if poll <= behaviour.not_found_first:
            raise _not_found(job.id)
        nth = poll - behaviour.not_found_first
        if nth <= len(behaviour.retrieve_errors):
            return await fault_response(behaviour.retrieve_errors[nth - 1], behaviour.retry_after)
        if behaviour.retrieve_error_forever is not None:
            return await fault_response(behaviour.retrieve_error_forever, behaviour.retry_after)
        return _answer(job)

    async def cancel(self, request: Request) -> Response:
        """POST /responses/{id}/cancel."""
        self._authorize(request)
        job = self._job(request)
        if job.behaviour.cancel != "supported":
            return await fault_response(job.behaviour.cancel, job.behaviour.retry_after)
        if job.status(now()) not in TERMINAL:
            self._store.cancel(job, job.elapsed(now()))
        return _answer(job)

    def _authorize(self, request: Request) -> str:
        """Check the bearer token and return a digest of it. The token itself is never stored."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or token.startswith("wrong"):
            raise error_for(401)
        if token.startswith("forbidden"):
            raise error_for(403)
        if self._token is not None and token != self._token:
            raise error_for(401)
        return hashlib.sha256(token.encode()).hexdigest()[:12]

    def _job(self, request: Request) -> Job:
        job_id = request.path_params["response_id"]
        job = self._store.get(job_id)
        if job is None:
            raise _not_found(job_id)
        expiry = job.behaviour.expires_after_s
        if expiry is not None and now() - job.created_at >= expiry:
            raise _not_found(job_id)
        return job

    def _next_create_fault(self, behaviour: Behaviour, question: str, round_number: int) -> Any:
        if behaviour.create_error_forever is not None:
            return behaviour.create_error_forever
        if not behaviour.create_errors:
            return None
        name = hashlib.sha256(f"{round_number} {question}".encode()).hexdigest()
        used = self._store.count(f"create_errors {name}")
        return behaviour.create_errors[used] if used < len(behaviour.create_errors) else None

    def _new_job(
        self,
        body: dict[str, Any],
        conversation: conversations.Conversation,
        behaviour: Behaviour,
        key: str | None,
        bearer: str,
        traceparent: str | None,
    ) -> Job:
        job_id = new_response_id(behaviour.long_ids)
        ids = IdFactory(job_id, conversation.round, behaviour.long_ids, behaviour.long_call_ids)
        plan = plan_output(conversation, behaviour, body.get("tools") or [], ids)
        read, written = len(json.dumps(body)) // 4, len(json.dumps(plan.items)) // 4
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        job = Job(
            id=job_id,
            created_at=now(),
            question=conversation.question,
            input_digest=conversations.digest(body),
            idempotency_key=key,
            round=conversation.round,
            bearer=bearer,
            traceparent=traceparent,
            behaviour=behaviour,
            request=body,
            script=write_script(plan.items, behaviour, plan.echoed, usage, plan.waits_at),
        )
        self._store.add(job, plan.runs)
        if plan.runs:
            self._on_tool_runs()
        return job


async def _wait_for_end(job: Job) -> None:
    """Wait for the end of the script and for its tools, at most 30 s for these."""
    await asyncio.sleep(max(0.0, job.created_at + job.script.end - now()))
    for _ in range(600):
        if job.script.waits_at is None:
            return
        await asyncio.sleep(0.05)


def _not_found(job_id: str) -> ApiError:
    return error_for(404, f"Response with id '{job_id}' not found.")


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise ApiError(400, "The body is not JSON.", "MALFORMED_REQUEST") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body is not a JSON object.", "MALFORMED_REQUEST")
    return body


def _answer(job: Job) -> Response:
    """The response object, rendered once for each time at which it changes."""
    elapsed = job.elapsed(now())
    moment = bisect.bisect_right(job.script.moments, elapsed)
    if (body := job.bodies.get(moment)) is None:
        body = job.bodies[moment] = json.dumps(_response(job, elapsed), ensure_ascii=False).encode()
    return Response(body, media_type="application/json")


def _response(job: Job, elapsed: float) -> dict[str, Any]:
    script = job.script
    status = "cancelled" if job.cancelled_after is not None else script.status(elapsed)
    ended = status in TERMINAL
    output = script.output(elapsed)
    if job.cancelled_after is not None:
        output = [step.item for step in script.steps if step.done <= elapsed]
    return {
        "id": job.id,
        "object": "response",
        "created_at": int(job.created_at),
        "model": job.request.get("model"),
        "status": status,
        "background": bool(job.request.get("background")),
        "error": script.error if ended and status == script.final_status else None,
        "incomplete_details": script.incomplete_details if ended else None,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": script.usage if ended else None,
    }


def on_api_error(_: Request, error: Exception) -> Response:
    """An `ApiError` as an HTTP response."""
    if not isinstance(error, ApiError):
        return JSONResponse({"message": "Internal error."}, status_code=500)
    return error_response(error)
