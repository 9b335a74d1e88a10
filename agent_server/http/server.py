"""MLflow's agent server with the manners of the Responses API: statuses, lifecycle events, background, reconnects."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from mlflow.genai.agent_server import AgentServer
from mlflow.genai.agent_server.server import (
    RETURN_TRACE_HEADER,
    get_invoke_function,
    get_stream_function,
)
from mlflow.genai.agent_server.utils import set_request_headers
from starlette.background import BackgroundTask

from databricks_supervisor.errors import SupervisorError

from . import documented
from .faults import Fault, fault_of

if TYPE_CHECKING:
    from .callers import Caller, TokenVault
    from .events import LegView
    from .front import Front
    from .views import Leg

__all__ = ["SupervisorServer"]

logger = logging.getLogger(__name__)

DONE = "data: [DONE]\n\n"
_NO_BUFFERING = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class SupervisorServer(AgentServer):
    """The agent server.

    Args:
        front: Gives the front; it may still be being built when the first request comes.
        vault: Where users' tokens are kept, if the service is asked on their behalf.
        enable_chat_proxy: Whether what is meant for the chat UI is handed on to it.
    """

    def __init__(
        self,
        front: Callable[[], Awaitable[Front]],
        *,
        vault: TokenVault | None = None,
        enable_chat_proxy: bool = False,
    ) -> None:
        self._front = front
        self._vault = vault
        super().__init__("ResponsesAgent", enable_chat_proxy=enable_chat_proxy)
        self.app.add_exception_handler(Fault, _refuse)
        self.app.add_exception_handler(SupervisorError, _refuse)
        documented.describe(self.app)

    def _setup_routes(self) -> None:
        super()._setup_routes()
        self.app.get("/responses/{response_id}")(self.retrieve)
        self.app.post("/responses/{response_id}/cancel")(self.cancel)

    async def retrieve(
        self, request: Request, response_id: str, stream: bool = False, starting_after: int = -1
    ) -> Response:
        """A response as it is now; or its events, from after the one with the number ``starting_after`` on."""
        front = await self._front()
        leg = await front.find(response_id, self._caller(request))
        if stream:
            return await self._streamed(front, leg, request, starting_after)
        view = await front.look(leg)
        return self._answered(front, leg, view)

    async def cancel(self, request: Request, response_id: str) -> Response:
        """Cancel the job of a response, where the service can."""
        front = await self._front()
        leg = await front.find(response_id, self._caller(request))
        return self._answered(front, leg, await front.cancel(leg))

    async def _handle_invocations_request(self, request: Request) -> Any:
        from .asks import read_ask

        set_request_headers(dict(request.headers))
        caller = self._caller(request)
        ask = read_ask(await request.body(), request.headers)
        front = await self._front()
        leg = await front.admit(ask, caller)
        if ask.stream:
            return await self._streamed(front, leg, request)
        if ask.background:
            return self._answered(front, leg, await front.look(leg))
        view: LegView = await get_invoke_function()(front, leg)  # type: ignore[no-untyped-call]
        return self._answered(front, leg, view, foreground=True, trace_id=_trace_id(front, leg, request))

    def _caller(self, request: Request) -> Caller:
        from .callers import caller_of

        return caller_of(request.headers, self._vault)

    def _answered(
        self,
        front: Front,
        leg: Leg,
        view: LegView,
        *,
        foreground: bool = False,
        trace_id: str | None = None,
    ) -> Response:
        """A response as a body. A client that waited for it is told of a refusal by the HTTP status."""
        from .events import response_of

        written = BackgroundTask(front.delivered, leg, view) if view.final else None
        if foreground and view.refused is not None:
            status, body = view.refused, {"error": {**(view.error or {}), "type": "server_error"}}
            return JSONResponse(body, status, background=written)
        body = response_of(view)
        if trace_id is not None:
            body["metadata"] = {**body["metadata"], "trace_id": trace_id}
        return JSONResponse(body, background=written)

    async def _streamed(self, front: Front, leg: Leg, request: Request, after: int = -1) -> Response:
        return StreamingResponse(
            self._events(front, leg, request, after), media_type="text/event-stream", headers=_NO_BUFFERING
        )

    async def _events(self, front: Front, leg: Leg, request: Request, after: int) -> AsyncIterator[str]:
        from .events import sse

        trace_id: str | None = None
        events: AsyncGenerator[dict[str, Any], None] = get_stream_function()(front, leg, after)  # type: ignore[no-untyped-call]
        async with contextlib.aclosing(events):
            try:
                async for event in events:
                    yield sse(event)
                    trace_id = trace_id or _trace_id(front, leg, request)
            except Exception as error:  # Headers are sent: the stream is all that can still say it.
                fault = fault_of(error)
                logger.warning("event=stream_broken response=%s reason=%s", leg.id, type(error).__name__)
                yield sse({"type": "error", "code": fault.code, "message": fault.message, "param": None})
        if trace_id is not None:
            yield sse({"trace_id": trace_id})
        yield DONE


def _trace_id(front: Front, leg: Leg, request: Request) -> str | None:
    wanted = request.headers.get(RETURN_TRACE_HEADER, "").lower() == "true"
    return front.trace_id(leg) if wanted else None


async def _refuse(_request: Request, error: Exception) -> Response:
    fault = fault_of(error)
    return JSONResponse(fault.body, fault.status, headers=fault.headers)
