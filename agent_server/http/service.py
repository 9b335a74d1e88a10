"""Creates, retrieves, streams and cancels responses; resumes open jobs at start-up."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator

from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.ledger import Ledger, Turn, response_ids

from ..threads import ThreadReader
from .background_runs import BackgroundRuns, RunObservers
from .caller import Caller
from .dispatcher import Dispatcher
from .errors import ApiError
from .events import Event, EventStream, ResponseSnapshot
from .follow import follow
from .request import CreateRequest
from .response_reader import ResponseReader
from .responses import ResponseRef

logger = logging.getLogger(__name__)

CANCELLED_WITHIN_S = 10.0
MOST_RESUMED = 1000
RESUMED_WITHIN_S = 3.0
RESUME_EVERY_S = 0.02


class ResponseService:
    """The responses of one graph, for the routes of one process.

    Args:
        model: Name of the model, as clients are told.
        on_behalf: Whether the service is asked as the user, so that a job waits for that user's next request.
        observers: Makes an observer for each background run, or ``None``.

    Attributes:
        reader: Finds and reads responses.
        runs: The background runs of this process.
    """

    def __init__(
        self,
        graph: CompiledSupervisorGraph,
        ledger: Ledger,
        *,
        model: str,
        on_behalf: bool = False,
        observers: RunObservers | None = None,
    ) -> None:
        self._clients = graph.parts.clients
        self._timeout_s = graph.parts.settings.retrieve_timeout_s
        self._ledger = ledger
        self._on_behalf = on_behalf
        threads = ThreadReader(graph, ledger)
        self.reader = ResponseReader(threads, ledger, model)
        self.runs = BackgroundRuns(graph, threads, observers)
        self._dispatcher = Dispatcher(graph, ledger, threads, self.reader, self.runs)
        self._resuming: asyncio.Task[None] | None = None

    def renew_client(self, caller: Caller) -> None:
        """Build the caller's next client anew if the caller has brought a new token."""
        if caller.has_new_token:
            self._clients.invalidate(caller.identity)

    async def create(self, request: CreateRequest, caller: Caller) -> ResponseRef:
        """The response that answers a request; its turn runs in the background.

        Raises:
            ApiError, SupervisorError: The request cannot be answered. Nothing was submitted for it.
        """
        return await self._dispatcher.dispatch(request, caller)

    async def retrieve(self, ref: ResponseRef) -> ResponseSnapshot:
        """A response as it is now; if it goes on, its turn runs in this process from now on."""
        if ref.new:
            return self.reader.queued(ref)
        snapshot = await self.reader.read(ref)
        if not snapshot.final:
            self.runs.start(ref.turn, ref.identity)
        return snapshot

    async def wait(self, ref: ResponseRef) -> ResponseSnapshot:
        """A response at its end, or at its pause.

        Raises:
            ApiError: It cannot be followed any further for now. The job is kept.
        """
        async for snapshot in follow(ref, self.reader, self.runs):
            if snapshot is not None and snapshot.final:
                return snapshot
        raise ApiError(503, "unavailable", "The response could not be followed. Ask for it again.")

    async def stream(self, ref: ResponseRef, after: int = -1) -> AsyncIterator[Event]:
        """The events of a response after the one with a number (-1: all), until its end or its pause."""
        stream = EventStream(after)
        snapshot = self.reader.queued(ref) if ref.index == 0 else await self.reader.read(ref)
        for event in stream.events(snapshot):
            yield event
        if not snapshot.final:
            try:
                async for change in follow(ref, self.reader, self.runs):
                    if change is None:
                        yield stream.keep_alive(snapshot)
                        continue
                    snapshot = change
                    for event in stream.events(snapshot):
                        yield event
            except ApiError as error:
                told = {"code": error.code, "message": error.message, "param": error.param}
                yield {"type": "error", "sequence_number": stream.last, **told}
                return
        if snapshot.error is None or stream.wrote_text:
            await self.mark_delivered(ref, snapshot)

    async def mark_delivered(self, ref: ResponseRef, snapshot: ResponseSnapshot) -> None:
        """Note that a client was sent a response, if the turn ends with it."""
        if snapshot.ends_turn:
            await self._ledger.mark_delivered(ref.turn.turn_id)

    async def cancel(self, ref: ResponseRef) -> ResponseSnapshot:
        """Cancel the job of a response at the service.

        Raises:
            ApiError: It cannot be cancelled. It goes on.
        """
        snapshot = await self.reader.read(ref)
        if snapshot.final:
            return snapshot
        jobs = response_ids(await self._ledger.effects(ref.turn.turn_id))
        if not jobs:
            self.runs.start(ref.turn, ref.identity)
            early = "The job is being submitted at this moment and cannot be cancelled before it has an id. "
            headers = {"Retry-After": "1"}
            raise ApiError(409, "not_submitted_yet", f"{early}Try again in a second.", headers=headers)
        response_id = jobs[max(jobs)]
        client = await self._clients.get(ref.identity)
        if not await client.cancel(response_id, timeout_s=self._timeout_s):
            raise ApiError(
                400,
                "cancel_not_supported",
                f"The service did not cancel job {response_id}: it goes on, and its answer can be read under "
                f"{ref.id}. Nothing was changed.",
            )
        try:
            return await asyncio.wait_for(self.wait(ref), CANCELLED_WITHIN_S)
        except TimeoutError:
            return await self.reader.read(ref)

    def resume_open_jobs(self) -> None:
        """Begin to run the turns that earlier processes left open, a few at a time."""
        if not self._on_behalf:
            self._resuming = asyncio.create_task(self._resume_open_jobs())

    async def close(self, within_s: float) -> None:
        """Stop following jobs, which go on at the service; wait so long for submissions to be recorded."""
        if self._resuming is not None:
            self._resuming.cancel()
        await self.runs.close(within_s)

    async def _resume_open_jobs(self) -> None:
        turns = [
            turn
            for turn in await self._ledger.open_turns(MOST_RESUMED)
            if not turn.position and "/" in turn.thread and turn.identity is None
        ]
        random.shuffle(turns)  # Several replicas that start at once begin with different ones.
        pause = min(RESUME_EVERY_S, RESUMED_WITHIN_S / max(1, len(turns)))
        for turn in turns:
            await asyncio.sleep(2 * pause * random.random())
            try:
                await self._resume(turn)
            except Exception as error:
                logger.warning("event=not_taken_up turn=%s reason=%s", turn.turn_id, type(error).__name__)

    async def _resume(self, turn: Turn) -> None:
        known = await self._ledger.get_turn(turn.turn_id)
        if known is not None and known.ended_at is None:
            ref = await self.reader.latest(known, None)
            if not (await self.reader.read(ref)).final:
                self.runs.start(known, None)
