"""The app: settings, graph and routes, put together.

What is heavy to import or slow to open is done in the background, so that ``/health`` answers at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI

from ..backend.user_tokens import UserTokens
from ..settings import AppSettings, load_settings
from .server import SupervisorServer

if TYPE_CHECKING:
    from .service import ResponseService

logger = logging.getLogger(__name__)

WARM_WITHIN_S = 10.0
DETACH_WITHIN_S = 2.0
TRACES_WITHIN_S = 1.5
EXIT_WITHIN_S = 2.5


def create_app() -> FastAPI:
    """The app with the environment's settings, for a server process of its own, which ends soon after SIGTERM.

    Raises:
        SettingError: One of them cannot work.
    """
    # What is loaded stays, so full garbage collections, which hold up all requests, need not look at it.
    return build_app(load_settings(), at_ready=gc.freeze, at_end=_exit_in_time)


def build_app(
    settings: AppSettings,
    *,
    at_ready: Callable[[], None] = lambda: None,
    at_end: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The app.

    Args:
        settings: The settings.
        at_ready: Called when everything is loaded, before the first request is answered.
        at_end: Called when the app begins to shut down.
    """
    tokens = UserTokens() if settings.auth == "user" else None
    opening: dict[str, asyncio.Future[ResponseService]] = {}

    async def service() -> ResponseService:
        return await asyncio.shield(opening["service"])

    server = SupervisorServer(service, vault=tokens, enable_chat_proxy=settings.ui)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        opened = opening["service"] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        owner = asyncio.create_task(_own(settings, tokens, opened, stop, at_ready))
        try:
            yield
        finally:
            at_end()
            stop.set()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await owner

    server.app.router.lifespan_context = lifespan
    return server.app


async def _own(
    settings: AppSettings,
    tokens: UserTokens | None,
    opened: asyncio.Future[ResponseService],
    stop: asyncio.Event,
    at_ready: Callable[[], None],
) -> None:
    """Open everything, and close it when the server stops; in one task, as the context managers require."""
    try:
        await asyncio.to_thread(_import)
        from ..backend.backend import find_backend
        from ..graph import open_graph
        from ..tracing.mlflow_tracing import Tracing
        from .service import ResponseService

        backend = await asyncio.to_thread(find_backend, settings, check=False)
        factory = backend.start() if tokens is None else tokens.client_factory(backend)
        tracing = Tracing(destination=backend.kind in ("supervisor", "local"))
        more = {"request_headers": tracing.request_headers, "parameters": tracing.parameters}
        async with open_graph(settings, backend, factory, **more) as (graph, ledger):
            service = ResponseService(
                graph, ledger, model=settings.model, on_behalf=tokens is not None, observers=tracing
            )
            tracing.start()
            if tokens is None:
                # The client is built before it is needed: its SDKs take seconds to load. If it cannot be built,
                # requests will say so.
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(graph.parts.clients.get(None), WARM_WITHIN_S)
            at_ready()
            opened.set_result(service)
            service.resume_open_jobs()
            await stop.wait()
            await service.close(DETACH_WITHIN_S)
            await tracing.close(TRACES_WITHIN_S)
    except Exception as error:
        logger.error("event=not_ready error=%s reason=%s", type(error).__name__, error)
        if not opened.done():
            opened.set_exception(error)
            opened.exception()  # So that asyncio does not warn if nobody asks.


def _import() -> None:
    """Load what the first request needs."""
    from ..graph import open_graph  # noqa: F401
    from .service import ResponseService  # noqa: F401


def _exit_in_time() -> None:
    """End the process even if a request to the service is under way: what became of it is found out later."""
    timer = threading.Timer(EXIT_WITHIN_S, os._exit, (128 + signal.SIGTERM,))
    timer.daemon = True
    timer.start()
