"""Putting the service together, and running it."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .api import Api, on_api_error
from .connection import CuttableProtocol
from .control import Control
from .errors import ApiError, error_for
from .faults import error_response
from .jobs import JobStore, now
from .script import TERMINAL
from .tool_runs import ToolRunner

PREFIX = "/ai-gateway/mlflow/v1/responses"


def create_app(
    store: JobStore, runner: ToolRunner, behaviour: dict[str, Any] | None = None, token: str | None = None
) -> Starlette:
    """The service as an ASGI application.

    Args:
        store: Jobs and counters.
        runner: Runs approved tools.
        behaviour: The default behaviour's fields.
        token: The bearer token that is asked for; None accepts any.
    """
    control = Control(store, behaviour or {})
    api = Api(store, control.behaviour, token, runner.wake)
    app = Starlette(
        routes=[
            Route(PREFIX + "/{response_id}", api.retrieve, methods=["GET"]),
            Route(PREFIX, api.create, methods=["POST"]),
            Route(PREFIX + "/{response_id}/cancel", api.cancel, methods=["POST"]),
            Route("/.well-known/databricks-config", _host_metadata, methods=["GET"]),
            *control.routes(),
        ],
        exception_handlers={ApiError: on_api_error, 404: _unknown_path, 405: _unknown_path},
    )
    app.router.redirect_slashes = False
    return app


async def _host_metadata(_: Request) -> Response:
    """What the Databricks SDK asks of every workspace; there is nothing that it has to know."""
    return JSONResponse({"oidc_endpoint": ""})


def _unknown_path(request: Request, _: Exception) -> Response:
    return error_response(
        error_for(404, f"No API found for {request.method} {request.url.path}", "ENDPOINT_NOT_FOUND")
    )


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_ready: Callable[[], None],
        parent: int | None,
        is_idle: Callable[[int], bool],
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._parent = parent
        self._is_idle = is_idle

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        # ten ticks a second; a parent that was killed leaves its children to another process
        if self._parent is not None and counter % 10 == 0 and os.getppid() != self._parent:
            return True
        if counter % 10 == 0 and self._is_idle(self.server_state.total_requests):
            return True
        return await super().on_tick(counter)


class Idleness:
    """Tells when nobody has asked anything for a while and no job is under way.

    Args:
        store: Jobs.
        limit_s: Seconds without a request; None is never idle.
    """

    # a job that nobody polls may never end: after the longest time that one can take it counts for nothing
    LONGEST_JOB_S = 30 * 60

    def __init__(self, store: JobStore, limit_s: float | None) -> None:
        self._store = store
        self._limit_s = limit_s
        self._requests = 0
        self._since = time.monotonic()

    def __call__(self, requests: int) -> bool:
        """Whether it is time to end, given the number of requests so far."""
        if requests != self._requests:
            self._requests, self._since = requests, time.monotonic()
        if self._limit_s is None or time.monotonic() - self._since < self._limit_s:
            return False
        return all(
            job.status(now()) in TERMINAL or now() - job.created_at > self.LONGEST_JOB_S
            for job in self._store.all()
        )


def serve(
    host: str,
    port: int,
    directory: Path,
    behaviour: dict[str, Any] | None = None,
    token: str | None = None,
    port_file: Path | None = None,
    parent: int | None = None,
    idle_exit_s: float | None = None,
) -> None:
    """Serve until a signal comes.

    Args:
        host: Address to listen on. port: 0 takes a free one.
        directory: Where jobs are kept. behaviour: The default behaviour's fields.
        token: See `create_app`. port_file: Gets "PORT PID" once the server is ready.
        parent: Process id of a parent that is not to be outlived.
        idle_exit_s: End after so many seconds without a request and with no unfinished job.
    """
    # asyncio sends small answers at once only when the protocol is named; without it each waits 40 ms
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    bound = listening.getsockname()[1]

    def announce() -> None:
        runner.start()
        if port_file is not None:
            unready = port_file.with_name(port_file.name + ".new")
            unready.write_text(f"{bound} {os.getpid()}")
            unready.replace(port_file)
        sys.stdout.write(f"local supervisor listening on http://{host}:{bound}\n")
        sys.stdout.flush()

    store = JobStore(directory)
    runner = ToolRunner(store)
    config = uvicorn.Config(
        create_app(store, runner, behaviour, token),
        http=CuttableProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_level="critical",
        access_log=False,
        # an open connection must not hold a shutdown, nor a client that polls slowly be cut off
        timeout_graceful_shutdown=0,
        timeout_keep_alive=75,
    )
    server = _Server(config, announce, parent, Idleness(store, idle_exit_s))
    try:
        server.run(sockets=[listening])
    finally:
        store.close()
