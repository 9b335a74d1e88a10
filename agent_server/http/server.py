"""MLflow's agent server, extended with the Responses API: statuses, lifecycle events, background, reconnects."""

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

from . import openapi
from .errors import ApiError, api_error_of

if TYPE_CHECKING:
    from .caller import Caller, TokenVault
    from .events import Event, ResponseSnapshot
    from .responses import ResponseRef
    from .service import ResponseService

logger = logging.getLogger(__name__)

DONE = "data: [DONE]\n\n"
NOTHING_TO_SHOW = 424
"""HTTP status of a job that failed, for a chat client; no client repeats the request after it."""
_NO_BUFFERING = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@invoke()
async def answer(service: ResponseService, ref: ResponseRef) -> ResponseSnapshot:
    """The response at its end, or at its pause."""
    return await service.wait(ref)


@stream()
async def answer_events(
    service: ResponseService, ref: ResponseRef, after: int
) -> AsyncGenerator[Event, None]:
    """The response's events, from after a number on."""
    async for event in service.stream(ref, after):
        yield event


class SupervisorServer(AgentServer):
    """The agent server.

    Args:
        service: Gives the service; it may still be starting when the first request comes.
        vault: Where users' tokens are kept, if the service is asked on their behalf.
        enable_chat_proxy: Whether requests for the chat UI are passed on to it.
    """

    def __init__(
        self,
        service: Callable[[], Awaitable[ResponseService]],
        *,
        vault: TokenVault | None = None,
        enable_chat_proxy: bool = False,
    ) -> None:
        self._service = service
        self._vault = vault
        super().__init__("ResponsesAgent", enable_chat_proxy=enable_chat_proxy)
        for kind in (ApiError, SupervisorError, RequestValidationError, HTTPException):
            self.app.add_exception_handler(kind, _refuse)
        openapi.describe(self.app)

    def _setup_routes(self) -> None:
        super()._setup_routes()
        self.app.get("/responses/{response_id}")(self.retrieve)
        self.app.post("/responses/{response_id}/cancel")(self.cancel)

    async def retrieve(
        self, request: Request, response_id: str, stream: bool = False, starting_after: int = -1
    ) -> Response:
        """A response as it is now; or its events, from after the one with the number ``starting_after`` on."""
        service, caller = await self._ready(request)
        with _unexpected(response_id):
            ref = await service.reader.find(response_id, caller)
        if stream:
            return self._streamed(service, ref, request, starting_after)
        with _unexpected(ref.id):
            return await self._answered(service, ref, await service.retrieve(ref), request)

    async def cancel(self, request: Request, response_id: str) -> Response:
        """Cancel the job of a response, if the service can."""
        service, caller = await self._ready(request)
        with _unexpected(response_id):
            ref = await service.reader.find(response_id, caller)
            return await self._answered(service, ref, await service.cancel(ref), request)

    async def _handle_invocations_request(self, request: Request) -> Any:
        from .request import parse_request

        set_request_headers(dict(request.headers))
        service, caller = await self._ready(request)
        asked = parse_request(await request.body(), request.headers)
        with _unexpected("a new request"):
            ref = await service.create(asked, caller)
        if asked.stream:
            return self._streamed(service, ref, request)
        with _unexpected(ref.id):
            if asked.background:
                return await self._answered(service, ref, await service.retrieve(ref), request)
            with _shutting_down():
                snapshot: ResponseSnapshot = await get_invoke_function()(service, ref)  # type: ignore[no-untyped-call]
            trace_id = _trace_id(service, ref, request)
            if asked.conversation:
                from .output_items import chat_item

                snapshot = replace(snapshot, items=[chat_item(item) for item in snapshot.items])
            refused = _refusal(snapshot, chat=asked.conversation)
            return await self._answered(service, ref, snapshot, request, refused=refused, trace_id=trace_id)

    async def _ready(self, request: Request) -> tuple[ResponseService, Caller]:
        """The service, once everything is open, and who asks it."""
        from .caller import caller_of

        caller = caller_of(request.headers, self._vault)
        with _unexpected("the start"):
            service = await self._service()
        service.renew_client(caller)
        return service, caller

    async def _answered(
        self,
        service: ResponseService,
        ref: ResponseRef,
        snapshot: ResponseSnapshot,
        request: Request,
        *,
        refused: int | None = None,
        trace_id: str | None = None,
    ) -> Response:
        """A response as a body, or its error with the HTTP status of a refusal."""
        from .events import response_of

        connected = snapshot.final and not await request.is_disconnected()
        written = BackgroundTask(service.mark_delivered, ref, snapshot) if connected else None
        if refused is not None:
            told = snapshot.error or {"code": snapshot.status, "message": f"The job was {snapshot.status}."}
            error = ApiError(refused, told["code"], told["message"])
            return JSONResponse(error.body, refused, background=written)
        body = response_of(snapshot)
        if trace_id is not None:
            body["metadata"] = {**body["metadata"], "trace_id": trace_id}
        return JSONResponse(body, background=written)

    def _streamed(
        self, service: ResponseService, ref: ResponseRef, request: Request, after: int = -1
    ) -> Response:
        events = self._events(service, ref, request, after)
        return StreamingResponse(events, media_type="text/event-stream", headers=_NO_BUFFERING)

    async def _events(
        self, service: ResponseService, ref: ResponseRef, request: Request, after: int
    ) -> AsyncIterator[str]:
        from .events import sse

        trace_id: str | None = None
        events: AsyncGenerator[Event, None] = get_stream_function()(service, ref, after)  # type: ignore[no-untyped-call]
        async with contextlib.aclosing(events):
            try:
                async for event in events:
                    yield sse(event)
                    trace_id = trace_id or _trace_id(service, ref, request)
            except Exception as error:  # The headers are sent: only the stream can still say it.
                told = api_error_of(error)
                logger.warning("event=stream_broken response=%s reason=%s", ref.id, type(error).__name__)
                yield sse({"type": "error", "code": told.code, "message": told.message, "param": None})
        if trace_id is not None:
            yield sse({"trace_id": trace_id})
        yield DONE


def _refusal(snapshot: ResponseSnapshot, *, chat: bool) -> int | None:
    """The HTTP status of an answer that is a refusal; ``None`` if it is a response.

    The chat UI does not read the ``error`` of a response: without any text it would show nothing.
    """
    if chat and snapshot.refused is None and snapshot.error is not None:
        return None if any(item["type"] == "message" for item in snapshot.items) else NOTHING_TO_SHOW
    return snapshot.refused


def _trace_id(service: ResponseService, ref: ResponseRef, request: Request) -> str | None:
    wanted = request.headers.get(RETURN_TRACE_HEADER, "").lower() == "true"
    return service.runs.trace_id(ref.turn.turn_id) if wanted else None


@contextlib.contextmanager
def _shutting_down() -> Iterator[None]:
    """Answers 503 when the server stops: uvicorn cancels what still waits, and would answer with a bare 500."""
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
    """Logs an unexpected error and answers 503 with advice."""
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
        told = ApiError(400, "invalid_request", f"{name}: {problem['msg']}.", param=name)
    elif isinstance(error, HTTPException):
        told = ApiError(error.status_code, "http_error", str(error.detail))
    else:
        told = api_error_of(error)
    return JSONResponse(told.body, told.status, headers=told.headers)
