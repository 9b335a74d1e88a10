"""Builds and runs the service."""

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
        token: The only accepted bearer token; None accepts any.
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
    """Requested by the Databricks SDK from every workspace; it needs none of the values."""
    return JSONResponse({"oidc_endpoint": ""})


def _unknown_path(request: Request, _: Exception) -> Response:
    return error_response(
        error_for(404, f"No API found for {request.method} {request.url.path}", "ENDPOINT_NOT_FOUND")
    )


class _Server(uvicorn.Server):
    """uvicorn's server, with a callback when it is ready."""

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
        # ten ticks a second; when a parent is killed, its children get another parent
        if self._parent is not None and counter % 10 == 0 and os.getppid() != self._parent:
            return True
        if counter % 10 == 0 and self._is_idle(self.server_state.total_requests):
            return True
        return await super().on_tick(counter)


class Idleness:
    """Whether there were no requests for some time and no job is running.

    Args:
        store: Jobs.
        limit_s: Seconds without a request; None is never idle.
    """

    # a job that is not polled may never end: older jobs are ignored
    LONGEST_JOB_S = 30 * 60

    def __init__(self, store: JobStore, limit_s: float | None) -> None:
        self._store = store
        self._limit_s = limit_s
        self._requests = 0
        self._since = time.monotonic()

    def __call__(self, requests: int) -> bool:
        """Whether the server should exit, given the number of requests so far."""
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
    """Serve until a signal is received.

    Args:
        host: Address to listen on. port: 0 takes a free one.
        directory: Directory of the jobs. behaviour: The default behaviour's fields.
        token: See `create_app`. port_file: File to write "PORT PID" to once the server is ready.
        parent: Exit when this process id is no longer the parent's.
        idle_exit_s: Exit after this many seconds without a request and without a running job.
    """
    # asyncio sets TCP_NODELAY only if the protocol is given; otherwise small responses are delayed by 40 ms
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
        # shut down despite open connections; keep connections of clients that poll slowly
        timeout_graceful_shutdown=0,
        timeout_keep_alive=75,
    )
    server = _Server(config, announce, parent, Idleness(store, idle_exit_s))
    try:
        server.run(sockets=[listening])
    finally:
        store.close()
