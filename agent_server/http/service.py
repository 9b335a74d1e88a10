"""The front: what the HTTP routes ask for. Let a request in, follow its leg, cancel it, take up what was left."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator

from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import SupervisorError
from databricks_supervisor.ledger import Ledger, Turn

from ..threads import ThreadReader
from .background_runs import BackgroundRun, BackgroundRuns, RunObservers
from .caller import Caller
from .dispatcher import Dispatcher
from .errors import ApiError, api_error_of
from .events import Event, EventStream, ResponseSnapshot
from .request import CreateRequest
from .response_reader import ResponseReader, ResponseRef
from .responses import rounds_of

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 10.0
STALLED_S = 0.5
CANCELLED_WITHIN_S = 10.0
MOST_TAKEN_UP = 1000
TAKEN_UP_WITHIN_S = 3.0
TAKEN_UP_EVERY_S = 0.02


class ResponseService:
    """One process's front of the graph.

    Args:
        graph: The compiled graph, with its checkpointer.
        ledger: Its ledger.
        model: Name of the model, as clients are told.
        on_behalf: Whether the service is asked as the user, so that a job waits for that user's next request.
        watcher: Watches drives, or ``None``.
    """

    def __init__(
        self,
        graph: CompiledSupervisorGraph,
        ledger: Ledger,
        *,
        model: str,
        on_behalf: bool = False,
        watcher: RunObservers | None = None,
    ) -> None:
        self._graph = graph
        self._ledger = ledger
        self._on_behalf = on_behalf
        threads = ThreadReader(graph, ledger)
        self._drives = BackgroundRuns(graph, threads, watcher)
        self._views = ResponseReader(threads, ledger, model)
        self._admission = Dispatcher(graph, ledger, threads, self._drives)
        self._taking_up: asyncio.Task[None] | None = None

    async def admit(self, ask: CreateRequest, caller: Caller) -> ResponseRef:
        """The leg that answers a request, under way.

        Raises:
            ApiError: The request cannot be let in. Nothing was submitted for it.
        """
        try:
            return await self._admission.admit(ask, caller)
        except SupervisorError as error:
            raise api_error_of(error) from None

    async def find(self, id: str, caller: Caller) -> ResponseRef:
        """The leg of a public id.

        Raises:
            ApiError: 404; it does not exist, or is another user's.
        """
        return await self._admission.find(id, caller)

    async def look(self, leg: ResponseRef) -> ResponseSnapshot:
        """A leg as it is now; a job that nobody drives here is driven from now on."""
        view = await self._views.view(leg)
        if not view.final:
            self._drives.start(leg.turn, leg.identity)
        return view

    async def wait(self, leg: ResponseRef) -> ResponseSnapshot:
        """A leg at its end, or at its pause.

        Raises:
            ApiError: It cannot be followed any further for now. The job is kept.
        """
        async for view in self._changes(leg):
            if view is not None and view.final:
                return view
        raise ApiError(503, "unavailable", "The response could not be followed. CreateRequest for it again.")

    async def events(self, leg: ResponseRef, after: int = -1) -> AsyncIterator[Event]:
        """The events of a leg, until its end or its pause.

        Args:
            leg: The leg.
            after: Number of the last event that the client has; -1 for none.
        """
        stream = EventStream(after)
        view = self._views.begun(leg) if leg.index == 0 else await self._views.view(leg)
        for event in stream.events(view):
            yield event
        if not view.final:
            try:
                async for change in self._changes(leg):
                    if change is None:
                        yield stream.keep_alive(view)
                        continue
                    view = change
                    for event in stream.events(view):
                        yield event
            except ApiError as fault:
                error = {"code": fault.code, "message": fault.message, "param": fault.param}
                yield {"type": "error", "sequence_number": stream.last, **error}
                return
        if view.error is None or stream.wrote_text:
            await self.delivered(leg, view)

    async def delivered(self, leg: ResponseRef, view: ResponseSnapshot) -> None:
        """Note that a client was sent the end of a turn."""
        if view.ends_turn:
            await self._ledger.mark_delivered(leg.turn.turn_id)

    async def cancel(self, leg: ResponseRef) -> ResponseSnapshot:
        """Cancel the remote job of a leg.

        Raises:
            ApiError: It cannot be cancelled. It goes on.
        """
        view = await self._views.view(leg)
        if view.final:
            return view
        rounds = rounds_of(await self._ledger.effects(leg.turn.turn_id))
        if not rounds:
            self._drives.start(leg.turn, leg.identity)
            raise ApiError(
                409,
                "not_submitted_yet",
                "The job is being submitted at this moment and cannot be cancelled before it has an id. "
                "Try again in a second.",
                headers={"Retry-After": "1"},
            )
        response_id = rounds[max(rounds)]
        client = await self._graph.parts.clients.get(leg.identity)
        if not await client.cancel(response_id, timeout_s=self._graph.parts.settings.retrieve_timeout_s):
            raise ApiError(
                400,
                "cancel_not_supported",
                f"The service did not cancel job {response_id}: it goes on, and its answer can be read under "
                f"{leg.id}. Nothing was changed.",
            )
        try:
            return await asyncio.wait_for(self.wait(leg), CANCELLED_WITHIN_S)
        except TimeoutError:
            return await self._views.view(leg)

    def trace_id(self, leg: ResponseRef) -> str | None:
        """Id of the trace of the leg's turn, if it is or was driven here and traced."""
        return self._drives.trace_id(leg.turn.turn_id)

    async def connect(self) -> None:
        """Build the client of the app's own identity."""
        await self._graph.parts.clients.get(None)

    def take_up(self) -> None:
        """Begin to drive the open jobs that earlier processes have left, without haste."""
        if not self._on_behalf:
            self._taking_up = asyncio.create_task(self._take_up())

    async def close(self, within_s: float) -> None:
        """Detach from every job; they go on at the service."""
        if self._taking_up is not None:
            self._taking_up.cancel()
        await self._drives.close(within_s)

    async def _changes(self, leg: ResponseRef) -> AsyncIterator[ResponseSnapshot | None]:
        """The leg whenever it may have changed, and ``None`` when it has been silent; it is driven meanwhile."""
        last: BackgroundRun | None = None
        while True:
            drive = self._drives.get(leg.turn.turn_id)
            seen = drive.version if drive is not None else 0
            view = await self._views.view(leg)
            yield view
            if view.final:
                return
            if last is not None and last.over and last.error is not None:
                raise api_error_of(last.error)
            if drive is None:
                if last is not None:  # It came to no end: another process has moved the thread on.
                    await asyncio.sleep(STALLED_S)
                drive = self._drives.start(leg.turn, leg.identity)
                seen = drive.version
            last = drive
            while not await drive.news(seen, KEEP_ALIVE_S):
                yield None

    async def _take_up(self) -> None:
        turns = [
            turn
            for turn in await self._ledger.open_turns(MOST_TAKEN_UP)
            if not turn.position and "/" in turn.thread and turn.identity is None
        ]
        random.shuffle(turns)  # Several replicas that start at once begin with different ones.
        pause = min(TAKEN_UP_EVERY_S, TAKEN_UP_WITHIN_S / max(1, len(turns)))
        for turn in turns:
            await asyncio.sleep(2 * pause * random.random())
            try:
                await self._take_up_one(turn)
            except Exception as error:
                logger.warning("event=not_taken_up turn=%s reason=%s", turn.turn_id, type(error).__name__)

    async def _take_up_one(self, turn: Turn) -> None:
        known = await self._ledger.get_turn(turn.turn_id)
        if known is not None and known.ended_at is None:
            leg = await self._admission.leg(known, Caller(""))
            if not (await self._views.view(leg)).final:
                self._drives.start(known, None)
