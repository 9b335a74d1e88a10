"""The app: settings, storage, graph and routes, put together.

What is heavy to import or slow to open is done behind the first request to ``/health``, in a thread.
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
    """The app with the environment's settings, for a server process of its own: it ends soon after it is told to.

    Raises:
        SettingError: One of them cannot work.
    """
    # What was loaded stays: full garbage collections, in which nothing is served, need not walk through it.
    return build_app(load_settings(), at_ready=gc.freeze, at_end=_exit_in_time)


def _nothing() -> None:
    return None


def build_app(
    settings: AppSettings, *, at_ready: Callable[[], None] = _nothing, at_end: Callable[[], None] = _nothing
) -> FastAPI:
    """The app.

    Args:
        settings: The settings.
        at_ready: Called when everything is loaded, and nothing asked yet.
        at_end: Called when it begins to shut down.
    """
    tokens = UserTokens() if settings.auth == "user" else None
    opening: dict[str, asyncio.Future[ResponseService]] = {}

    async def front() -> ResponseService:
        return await asyncio.shield(opening["front"])

    server = SupervisorServer(front, vault=tokens, enable_chat_proxy=settings.ui)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        opened = opening["front"] = asyncio.get_running_loop().create_future()
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
    """Open everything, and close it when the server stops: in one task, as what is opened wants it."""
    try:
        await asyncio.to_thread(_import)
        from ..backend.backend import find_backend
        from ..graph import build_graph
        from ..storage.storage import open_storage
        from ..tracing.mlflow_tracing import Tracing
        from .service import ResponseService

        backend = await asyncio.to_thread(find_backend, settings, check=False)
        factory = backend.start() if tokens is None else tokens.client_factory(backend)
        async with open_storage(settings.state_url) as storage:
            tracing = Tracing(destination=backend.kind in ("supervisor", "local"))
            builder = build_graph(
                settings,
                storage.ledger,
                factory,
                local=backend.local,
                request_headers=tracing.request_headers,
                parameters=tracing.parameters,
            )
            graph = builder.compile(storage.saver, durability=settings.durability)
            front = ResponseService(
                graph, storage.ledger, model=settings.model, on_behalf=tokens is not None, watcher=tracing
            )
            tracing.start()
            if tokens is None:
                await _warm_up(front)
            at_ready()
            opened.set_result(front)
            front.take_up()
            await stop.wait()
            await front.close(DETACH_WITHIN_S)
            await tracing.close(TRACES_WITHIN_S)
    except Exception as error:
        logger.error("event=not_ready error=%s reason=%s", type(error).__name__, error)
        if not opened.done():
            opened.set_exception(error)
            opened.exception()  # Whether or not anybody asks.


async def _warm_up(front: ResponseService) -> None:
    """Have the client built before it is needed: its SDKs take seconds to load. What is wrong, requests will say."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(front.connect(), WARM_WITHIN_S)


def _import() -> None:
    """Load what the first request needs."""
    from databricks_supervisor import create_supervisor_graph  # noqa: F401

    from ..storage.storage import open_storage  # noqa: F401
    from .service import ResponseService  # noqa: F401


def _exit_in_time() -> None:
    """End the process even if a request to the service is still under way: what it submits is asked about later."""
    timer = threading.Timer(EXIT_WITHIN_S, os._exit, (128 + signal.SIGTERM,))
    timer.daemon = True
    timer.start()
