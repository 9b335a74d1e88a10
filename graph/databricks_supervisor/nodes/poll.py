"""The node that polls a job until it has something new or ends. Polling has no side effect."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer

from ..client.failures import Transient
from ..client.responses import TERMINAL, ServiceResponse
from ..errors import (
    AuthenticationError,
    JobNotFoundError,
    JobTimeoutError,
    RequestRejectedError,
    ServiceRetiredError,
    ServiceUnavailableError,
    TurnEndedError,
)
from ..items import Item, message_from_item
from ..items.history import sent_input
from ..items.output import items_of, new_items, pending_of, says_something
from ..polling import PollMoment, Retry, next_delay
from ..redaction import scrub
from ..run import Run, run_of
from ..state import Job, SupervisorState
from .progress import ProgressWriter
from .text_stream import stream_texts
from .transitions import fail_turn, failure_of_status, is_superseded, raise_failure

logger = logging.getLogger(__name__)


async def poll(state: SupervisorState, config: RunnableConfig) -> dict[str, Any]:
    """Poll until something new is complete or the job ends, and put it into the state.

    Raises:
        JobError: The job ended without its answer (with ``on_failure="raise"``).
        ServiceError: The job cannot be read. The turn is kept: resume the thread.
    """
    run, job = run_of(config), state["job"]
    failure = job.get("failure")
    if failure and failure["kind"] != JobTimeoutError.__name__:
        await raise_failure(run, job, failure)
    reader = _Reader(run, job, state["messages"])
    try:
        response, items = await reader.read()
    except (JobNotFoundError, JobTimeoutError, RequestRejectedError, ServiceRetiredError) as error:
        if failure:
            await raise_failure(run, job, failure)
        return await fail_turn(run, reader.job, error)
    if await is_superseded(run, job["turn_id"]):
        raise TurnEndedError(
            f"Turn {job['turn_id']} is over: another message followed it on thread {run.thread}. "
            "Nothing more was written for it. Resume the thread to follow the new one."
        )
    update = await _deliver(run, reader.job, state["messages"], response, items)
    await stream_texts(update.get("messages", []), config)
    return update


class _Reader:
    """Polls one job until it has something new, and retries reads that may succeed later."""

    def __init__(self, run: Run, job: Job, messages: Sequence[BaseMessage]) -> None:
        self.run = run
        self.job: Job = {**job, "failure": None, "ended": False}
        self._response_id = job["response_id"] or ""
        self._messages = messages
        self._sent: list[Item] | None = None
        self._progress = ProgressWriter(get_stream_writer(), self._response_id)
        if job["polls"]:
            self._progress.resume(job)
        self._retry = Retry(run.time.random)
        self._missing_since: float | None = None

    async def read(self) -> tuple[ServiceResponse, list[Item]]:
        """The first response that brings something new or final, and the items that are new in it."""
        last: ServiceResponse | None = None
        retry_s: float | None = None
        self._report_progress()
        while True:
            await self._wait(self._delay() if retry_s is None else retry_s)
            retry_s = None
            try:
                response = await self._retrieve(last)
            except Transient as error:
                retry_s = self._delay_after_failure(error)
                continue
            self._retry.succeeded()
            self._missing_since = None
            self.job["status"] = response.status
            if response is not last or response.terminal:
                items = self._new(response)
                if items or response.terminal:
                    self._report_progress(new=len(items))
                    return response, items
            last = response.without_content() if response is not last else last
            self._report_progress()
            self._check_deadline(response)

    async def _retrieve(self, last: ServiceResponse | None) -> ServiceResponse:
        self.job["polls"] += 1
        client = await self.run.client()
        try:
            return await client.retrieve(
                self._response_id, timeout_s=self.run.settings.retrieve_timeout_s, last=last
            )
        except AuthenticationError:
            if not self._retry.refresh_login():
                raise
            self.run.clients.invalidate(self.run.settings.identity, client)
            raise Transient("the credentials were refused once", 0.0) from None
        except RequestRejectedError as error:
            if error.status_code != 404:
                raise
            return self._missing(error)

    def _missing(self, error: RequestRejectedError) -> ServiceResponse:
        """404: a service may not find a new job at once; after ``not_found_grace_s`` the job is gone."""
        now = self.run.time.now()
        self._missing_since = now if self._missing_since is None else self._missing_since
        if now - self._missing_since < self.run.settings.not_found_grace_s:
            raise Transient(str(error), 1.0)
        raise JobNotFoundError(
            f"Job {self._response_id} not found (404): it expired or was deleted, or this is another workspace. "
            "The thread still has everything it delivered. Send the message again to start a new job.",
            response_id=self._response_id,
            status=self.job["status"],
        )

    def _delay_after_failure(self, error: Transient) -> float:
        """Seconds until the next try.

        Raises:
            ServiceUnavailableError: It has failed for too long.
        """
        now = self.run.time.now()
        delay = self._retry.failed(now, error.retry_after_s)
        failing_s = self._retry.failing_for_s(now)
        logger.warning(
            "event=poll_failed response_id=%s thread=%s failures=%d retry_in_s=%.1f reason=%s",
            self._response_id,
            self.run.thread,
            self._retry.failures,
            delay,
            error,
        )
        if failing_s > self.run.settings.unreachable_after_s:
            raise ServiceUnavailableError(
                f"Job {self._response_id} could not be read for {failing_s:.0f} s: {error}. "
                "It may still be running; nothing was lost. Resume the thread when the service answers again."
            )
        self._report_progress()
        return delay

    def _delay(self) -> float:
        if self.job["status"] in TERMINAL:
            return 0.0
        now = self.run.time.now()
        moment = PollMoment(
            age_s=max(0.0, now - self.job["submitted_at"]),
            since_news_s=max(0.0, now - self.job["news_at"]),
            polls=self.job["polls"],
        )
        return next_delay(self.run.settings.polling, moment, self.run.time.random)

    def _new(self, response: ServiceResponse) -> list[Item]:
        if self._sent is None:
            self._sent = sent_input(self._messages, self._response_id)
        return new_items(response.output, self._sent, final=response.terminal)[self.job["delivered"] :]

    def _check_deadline(self, response: ServiceResponse) -> None:
        """Checked only after the service said that the job still runs: a thread may be resumed next week."""
        age = self.run.time.now() - self.job["submitted_at"]
        if age > self.run.settings.deadline_s:
            raise JobTimeoutError(
                f"Job {self._response_id} was still {response.status!r} after {age / 60:.0f} minutes. The thread "
                "keeps what it delivered. Resume the thread to look once more, or send the message again to "
                "start a new job.",
                response_id=self._response_id,
                status=response.status,
            )

    async def _wait(self, seconds: float) -> None:
        """Sleep, and report progress whenever that is due."""
        while (due := self._progress.due_s(self._elapsed())) < seconds:
            await self.run.time.sleep(due)
            seconds -= due
            self._report_progress()
        await self.run.time.sleep(seconds)

    def _report_progress(self, *, new: int = 0) -> None:
        unreachable = self._retry.failures > 0
        self._progress.report(self.job, self._elapsed(), new_items=new, unreachable=unreachable)

    def _elapsed(self) -> float:
        return max(0.0, self.run.time.now() - self.job["submitted_at"])


async def _deliver(
    run: Run, job: Job, before: Sequence[BaseMessage], response: ServiceResponse, items: list[Item]
) -> dict[str, Any]:
    response_id = job["response_id"] or ""
    messages = [
        message_from_item(item, response_id, job["delivered"] + offset) for offset, item in enumerate(items)
    ]
    usage = response.body.get("usage")
    job = {
        **job,
        "delivered": job["delivered"] + len(items),
        "news_at": run.time.now(),
        "usage": usage if isinstance(usage, dict) else None,
    }
    if not response.terminal:
        return {"messages": messages, "job": job}
    details = response.body.get("incomplete_details")
    if isinstance(details, dict) and isinstance(details.get("reason"), str):
        job = {**job, "incomplete": scrub(details["reason"])}
    own = items_of([*before, *messages], response_id)
    error = failure_of_status(response_id, response.body, sum(map(says_something, own)))
    if error is not None:
        failed = await fail_turn(run, job, error)
        return {"job": failed["job"], "messages": messages + failed.get("messages", [])}
    pending = pending_of([*before, *messages], response_id, run.settings.function_names)
    if response.status != "completed" or not pending:
        await run.ledger.end_turn(job["turn_id"])
        job = {**job, "ended": True}
    return {"messages": messages, "job": job}
