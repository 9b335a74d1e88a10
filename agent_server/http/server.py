"""MLflow's agent server with the manners of the Responses API: statuses, lifecycle events, background, reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from traceback import format_exception
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from mlflow.genai.agent_server import AgentServer, invoke, stream
from mlflow.genai.agent_server.server import (
    RETURN_TRACE_HEADER,
    get_invoke_function,
    get_stream_function,
)
from mlflow.genai.agent_server.utils import set_request_headers
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from databricks_supervisor.errors import SupervisorError
from databricks_supervisor.redaction import scrub

from . import openapi as documented
from .errors import ApiError, api_error_of

if TYPE_CHECKING:
    from .caller import Caller, TokenVault
    from .events import Event, ResponseSnapshot
    from .response_reader import ResponseRef
    from .service import ResponseService


logger = logging.getLogger(__name__)

DONE = "data: [DONE]\n\n"
NOTHING_TO_SHOW = 424
"""HTTP status of a job that failed, for a chat client; no client repeats the request after it."""
_NO_BUFFERING = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@invoke()
async def answer(front: ResponseService, leg: ResponseRef) -> ResponseSnapshot:
    """The leg at its end, or at its pause."""
    return await front.wait(leg)


@stream()
async def answer_events(front: ResponseService, leg: ResponseRef, after: int) -> AsyncGenerator[Event, None]:
    """The leg's events, from after a number on."""
    async for event in front.events(leg, after):
        yield event


class SupervisorServer(AgentServer):
    """The agent server.

    Args:
        front: Gives the front; it may still be being built when the first request comes.
        vault: Where users' tokens are kept, if the service is asked on their behalf.
        enable_chat_proxy: Whether what is meant for the chat UI is handed on to it.
    """

    def __init__(
        self,
        front: Callable[[], Awaitable[ResponseService]],
        *,
        vault: TokenVault | None = None,
        enable_chat_proxy: bool = False,
    ) -> None:
        self._front = front
        self._vault = vault
        super().__init__("ResponsesAgent", enable_chat_proxy=enable_chat_proxy)
        for kind in (ApiError, SupervisorError, RequestValidationError, HTTPException):
            self.app.add_exception_handler(kind, _refuse)
        documented.describe(self.app)

    def _setup_routes(self) -> None:
        super()._setup_routes()
        self.app.get("/responses/{response_id}")(self.retrieve)
        self.app.post("/responses/{response_id}/cancel")(self.cancel)

    async def retrieve(
        self, request: Request, response_id: str, stream: bool = False, starting_after: int = -1
    ) -> Response:
        """A response as it is now; or its events, from after the one with the number ``starting_after`` on."""
        front = await self._ready()
        with _unexpected(response_id):
            leg = await front.find(response_id, self._caller(request))
        if stream:
            return self._streamed(front, leg, request, starting_after)
        with _unexpected(leg.id):
            return await self._answered(front, leg, await front.look(leg), request)

    async def cancel(self, request: Request, response_id: str) -> Response:
        """Cancel the job of a response, where the service can."""
        front = await self._ready()
        with _unexpected(response_id):
            leg = await front.find(response_id, self._caller(request))
            return await self._answered(front, leg, await front.cancel(leg), request)

    async def _handle_invocations_request(self, request: Request) -> Any:
        from .request import parse_request

        set_request_headers(dict(request.headers))
        caller = self._caller(request)
        ask = parse_request(await request.body(), request.headers)
        front = await self._ready()
        with _unexpected("a new request"):
            leg = await front.admit(ask, caller)
        if ask.stream:
            return self._streamed(front, leg, request)
        with _unexpected(leg.id):
            if ask.background:
                return await self._answered(front, leg, await front.look(leg), request)
            with _not_cut_off():
                view: ResponseSnapshot = await get_invoke_function()(front, leg)  # type: ignore[no-untyped-call]
            trace_id = _trace_id(front, leg, request)
            if ask.conversation:
                from .output_items import chat_item

                view = replace(view, items=[chat_item(item) for item in view.items])
            refused = _refusal(view, chat=ask.conversation)
            return await self._answered(front, leg, view, request, refused=refused, trace_id=trace_id)

    async def _ready(self) -> ResponseService:
        """The front, once everything is open."""
        with _unexpected("the start"):
            return await self._front()

    def _caller(self, request: Request) -> Caller:
        from .caller import caller_of

        return caller_of(request.headers, self._vault)

    async def _answered(
        self,
        front: ResponseService,
        leg: ResponseRef,
        view: ResponseSnapshot,
        request: Request,
        *,
        refused: int | None = None,
        trace_id: str | None = None,
    ) -> Response:
        """A response as a body, or its error with the HTTP status of a refusal."""
        from .events import response_of

        there = view.final and not await request.is_disconnected()
        written = BackgroundTask(front.delivered, leg, view) if there else None
        if refused is not None:
            error = view.error or {"code": view.status, "message": f"The job was {view.status}."}
            fault = ApiError(refused, error["code"], error["message"])
            return JSONResponse(fault.body, refused, background=written)
        body = response_of(view)
        if trace_id is not None:
            body["metadata"] = {**body["metadata"], "trace_id": trace_id}
        return JSONResponse(body, background=written)

    def _streamed(
        self, front: ResponseService, leg: ResponseRef, request: Request, after: int = -1
    ) -> Response:
        return StreamingResponse(
            self._events(front, leg, request, after), media_type="text/event-stream", headers=_NO_BUFFERING
        )

    async def _events(
        self, front: ResponseService, leg: ResponseRef, request: Request, after: int
    ) -> AsyncIterator[str]:
        from .events import sse

        trace_id: str | None = None
        events: AsyncGenerator[dict[str, Any], None] = get_stream_function()(front, leg, after)  # type: ignore[no-untyped-call]
        async with contextlib.aclosing(events):
            try:
                async for event in events:
                    yield sse(event)
                    trace_id = trace_id or _trace_id(front, leg, request)
            except Exception as error:  # Headers are sent: the stream is all that can still say it.
                fault = api_error_of(error)
                logger.warning("event=stream_broken response=%s reason=%s", leg.id, type(error).__name__)
                yield sse({"type": "error", "code": fault.code, "message": fault.message, "param": None})
        if trace_id is not None:
            yield sse({"trace_id": trace_id})
        yield DONE


def _refusal(view: ResponseSnapshot, *, chat: bool) -> int | None:
    """The HTTP status that tells a client that waited of a refusal.

    The chat UI does not read the ``error`` of a response: where there is no text either, it would show nothing.
    """
    if chat and view.refused is None and view.error is not None:
        return None if any(item["type"] == "message" for item in view.items) else NOTHING_TO_SHOW
    return view.refused


def _trace_id(front: ResponseService, leg: ResponseRef, request: Request) -> str | None:
    wanted = request.headers.get(RETURN_TRACE_HEADER, "").lower() == "true"
    return front.trace_id(leg) if wanted else None


@contextlib.contextmanager
def _not_cut_off() -> Iterator[None]:
    """Say that the server stops: uvicorn cancels who still waits then, and would answer with a bare 500."""
    try:
        yield
    except asyncio.CancelledError:
        raise ApiError(
            503,
            "shutting_down",
            "The server is shutting down. The job goes on; send the same request again to go on with it.",
            headers={"Retry-After": "1"},
        ) from None


@contextlib.contextmanager
def _unexpected(what: str) -> Iterator[None]:
    """Nothing ends in a bare 500: what nobody expected is logged, and told with what to do."""
    try:
        yield
    except (ApiError, SupervisorError):
        raise
    except Exception as error:
        logger.error("event=unexpected about=%s\n%s", what, scrub("".join(format_exception(error))))
        raise api_error_of(error) from None


async def _refuse(_request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        problem = error.errors()[0]
        name = str(problem["loc"][-1])
        fault = ApiError(400, "invalid_request", f"{name}: {problem['msg']}.", param=name)
    elif isinstance(error, HTTPException):
        fault = ApiError(error.status_code, "http_error", str(error.detail))
    else:
        fault = api_error_of(error)
    return JSONResponse(fault.body, fault.status, headers=fault.headers)
