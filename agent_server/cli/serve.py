"""`start-server` and `start-app`: the agent server, alone or with the chat UI.

Usage::

    uv run start-server --port 8000
    uv run start-app                  # with the chat UI of Databricks' templates
    uv run start-app --no-ui --local  # no workspace needed

Everything that can be wrong before the first request is checked here, and said in one line (exit code 2).
Nothing heavy is imported: uvicorn loads the app itself, in each of its workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import typer

from ..errors import AppError, NotReachableError, UsageError
from .options import Local, load_env_file, new_command

APP = "agent_server.http.app:create_app"
PORT = 8000
DRAIN_S = 1
"""Seconds for open requests to end after SIGTERM; a platform may wait only five before it kills."""

_EPILOG = """\
Settings: SUPERVISOR_… in the environment or in .env, see .env.example. A setting that cannot work ends the
start with one line and exit code 2."""

Host = Annotated[
    str | None,
    typer.Option(
        metavar="HOST",
        help="Address to listen on. 127.0.0.1; as a Databricks App 0.0.0.0.",
        show_default=False,
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        help="Port to listen on, 0 for a free one. 8000; as a Databricks App DATABRICKS_APP_PORT.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(metavar="N", min=1, help="Processes that serve.")]
Reload = Annotated[bool, typer.Option("--reload", help="Start again when a source file changes.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Log requests, and what the app does.")]


@dataclass(frozen=True, slots=True)
class _Options:
    host: str | None
    port: int | None
    workers: int
    reload: bool
    local: bool | None
    verbose: bool
    ui: bool


_server, _app = new_command(), new_command()


@_server.command(epilog=_EPILOG)
def _start_server(
    host: Host = None,
    port: Port = None,
    workers: Workers = 1,
    reload: Reload = False,
    local: Local = None,
    verbose: Verbose = False,
) -> None:
    """Serve the agent at /responses and /invocations."""
    _start(_Options(host, port, workers, reload, local, verbose, ui=False))


@_app.command(epilog=_EPILOG)
def _start_app(
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Serve the agent without the chat UI.")] = False,
    host: Host = None,
    port: Port = None,
    workers: Workers = 1,
    local: Local = None,
    verbose: Verbose = False,
) -> None:
    """Serve the agent, and a chat UI to talk to it."""
    _start(_Options(host, port, workers, False, local, verbose, ui=not no_ui))


def start_server(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `start-server` with these arguments, or those of the process; always ends with ``SystemExit``."""
    _run(_server, "start-server", arguments)


def start_app(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `start-app`; see :func:`start_server`."""
    _run(_app, "start-app", arguments)


def _run(command: typer.Typer, name: str, arguments: Sequence[str] | None) -> NoReturn:
    command(args=list(sys.argv[1:] if arguments is None else arguments), prog_name=name)
    raise AssertionError("a command line ends the process")


def _start(options: _Options) -> None:
    signal.signal(signal.SIGTERM, _leave)
    try:
        _serve(options)
    except AppError as error:
        _say(f"Error: {error}")
        raise typer.Exit(error.exit) from None


def _serve(options: _Options) -> None:
    if options.reload and options.workers > 1:
        raise UsageError("--reload and --workers contradict each other. Give one of them.")
    load_env_file()
    from ..settings import load_settings
    from ..storage.check import check_state
    from ..storage.url import describe_state, is_sqlite

    settings = load_settings(local=options.local)
    # The workers read the settings from the environment.
    os.environ["SUPERVISOR_UI"] = str(options.ui).lower()
    if settings.local is not None:
        os.environ["SUPERVISOR_LOCAL"] = str(settings.local).lower()
    service = _describe_service(settings)
    host, port = _address(options)
    if options.ui:
        from .chat_ui import check_chat_ui

        check_chat_ui(settings.ui_dir)
    check_state(settings.state_url)
    whose = "each user" if settings.auth == "user" else "the app"
    _say(f"Answers: {service}, asked in the name of {whose}. State: {describe_state(settings.state_url)}.")
    if os.environ.get("DATABRICKS_APP_NAME") and is_sqlite(settings.state_url):
        _say("Warning: an app's files are lost when it is deployed. Set SUPERVISOR_STATE_URL to a database.")
    with contextlib.ExitStack() as running:
        if options.ui:
            from .chat_ui import run_chat_ui

            running.enter_context(run_chat_ui(settings.ui_dir, f"http://127.0.0.1:{port}", _say))
        _run_uvicorn(host, port, options)


def _describe_service(settings: Any) -> str:
    from ..backend.backend import find_backend

    try:
        return find_backend(settings).description
    except NotReachableError as error:
        _say(f"Warning: {error} The server starts all the same.")  # It may come back; jobs wait for it.
        return find_backend(settings, check=False).description


def _address(options: _Options) -> tuple[str, int]:
    """Where to listen.

    Raises:
        UsageError: One cannot listen there.
    """
    app_port = os.environ.get("DATABRICKS_APP_PORT", "").strip()
    as_app = bool(app_port or os.environ.get("DATABRICKS_APP_NAME"))
    host = options.host or ("0.0.0.0" if as_app else "127.0.0.1")
    port = options.port
    if port is None and app_port:
        if not (app_port.isdecimal() and 0 < int(app_port) < 65536):
            raise UsageError(f"DATABRICKS_APP_PORT={app_port}: not a port.")
        port = int(app_port)
    port = PORT if port is None else port
    if not as_app and not host.startswith("127.") and host not in ("localhost", "::1"):
        _say(
            f"Warning: whoever reaches {host} is who the headers x-forwarded-… say. "
            "Let nobody but a proxy that sets them reach it."
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(found[0][4])
            return host, tried.getsockname()[1]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"Cannot listen on {host}:{port}: {reason}. Choose another --port or --host."
        ) from None


class NotCancelled(logging.Filter):
    """Leaves out the tracebacks of cancelled requests: a stop would log one for each open stream."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _run_uvicorn(host: str, port: int, options: _Options) -> None:
    import uvicorn
    from uvicorn.config import LOGGING_CONFIG

    level = "INFO" if options.verbose else "WARNING"
    quiet = {name: {"level": "WARNING"} for name in ("httpx", "httpx2")}  # A line for each poll.
    handlers = {
        name: {**handler, "filters": ["done"]} for name, handler in LOGGING_CONFIG["handlers"].items()
    }
    log_config = {
        **LOGGING_CONFIG,
        "filters": {"done": {"()": f"agent_server.cli.serve.{NotCancelled.__name__}"}},
        "handlers": handlers,
        "loggers": LOGGING_CONFIG["loggers"] | quiet,
        "root": {"handlers": ["default"], "level": level},
    }
    # Uvicorn handles signals itself, and raises them again when it has ended.
    signal.signal(signal.SIGTERM, _terminate)
    uvicorn.run(
        APP,
        factory=True,
        host=host,
        port=port,
        workers=options.workers,
        reload=options.reload,
        lifespan="on",
        log_config=log_config,
        access_log=options.verbose,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )


def _leave(number: int, _frame: Any) -> NoReturn:
    """A stop during the imports: an exception could be swallowed there, and there is nothing to clean up."""
    os._exit(128 + number)


def _terminate(number: int, _frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    start_server()
