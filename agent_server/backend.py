"""Which service answers: a Databricks workspace, or the local supervisor when none is configured."""

from __future__ import annotations

import asyncio
import configparser
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from .errors import NotReachableError, UsageError
from .local import ensure_local, keep_local

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Backend", "find_backend"]

T = TypeVar("T")
REACHABLE_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Backend:
    """A service.

    Attributes:
        host: The workspace's host; ``None`` for the local supervisor.
    """

    host: str | None

    @property
    def local(self) -> bool:
        """Whether it is the local supervisor."""
        return self.host is None

    def start(self) -> Callable[[str | None], Awaitable[AsyncOpenAI]]:
        """Begin to start or to find the service, in the background.

        Returns:
            A ``client_factory`` for the graph.
        """
        if self.host is not None:
            return _workspace_client
        starting = _in_background(ensure_local, "local-supervisor-start")

        async def local_client(_identity: str | None) -> AsyncOpenAI:
            from databricks_supervisor.errors import ServiceUnavailableError

            try:
                port = await asyncio.wrap_future(starting)
            except NotReachableError as error:
                raise ServiceUnavailableError(str(error)) from None
            return await asyncio.wrap_future(_in_background(lambda: _build_local(port), "client"))

        return local_client


def find_backend(local: bool | None = None) -> Backend:
    """The service that the environment names, as the Databricks SDK would resolve it; checks that it listens.

    Args:
        local: Whether to use the local supervisor; ``None`` does so when no workspace is configured.

    Raises:
        UsageError: No workspace is configured and ``local`` is false, or its host is not one.
        NotReachableError: The workspace's host does not accept connections.
    """
    host = None if local else _workspace()
    if host is None and local is False:
        raise UsageError(
            "No workspace is configured. Set DATABRICKS_HOST and DATABRICKS_TOKEN (or a profile of the "
            "Databricks CLI), or leave out --no-local to use the local supervisor."
        )
    if host is not None:
        _check_listening(host)
    return Backend(host)


def _workspace() -> str | None:
    if host := os.environ.get("DATABRICKS_HOST", "").strip():
        return host
    profile = os.environ.get("DATABRICKS_CONFIG_PROFILE", "").strip()
    if not profile and os.environ.get("DATABRICKS_TOKEN"):
        return None  # The SDK reads no file then.
    file = Path(os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg").expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        raise UsageError(f"{file} cannot be read as a Databricks configuration file.") from None
    wanted = profile or parser.get("__settings__", "default_profile", fallback="") or "DEFAULT"
    known = wanted == parser.default_section or parser.has_section(wanted)
    host = parser.get(wanted, "host", fallback="") if known else ""
    if profile and not host:
        raise UsageError(f"DATABRICKS_CONFIG_PROFILE={profile}: {file} has no such profile with a host.")
    return host or None


def _check_listening(host: str) -> None:
    """Ask the host for a connection, before seconds are spent on loading the SDK, which is patient."""
    try:
        parts = urlsplit(host if "://" in host else f"https://{host}")
        name, port = parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        name, port = None, 0
    if not name or any(character.isspace() for character in host) or parts.scheme not in ("http", "https"):
        raise UsageError(
            f"DATABRICKS_HOST={host}: not the address of a workspace, such as https://example.databricks.com."
        )
    if any(os.environ.get(key) or os.environ.get(key.lower()) for key in ("HTTPS_PROXY", "ALL_PROXY")):
        return  # Only the proxy may be able to reach it.
    outcome: list[str] = []

    def connect() -> None:
        try:
            with socket.create_connection((name, port), timeout=REACHABLE_WITHIN_S) as connection:
                if parts.scheme == "https":
                    _shake_hands(connection, name)
            outcome.append("")
        except OSError as error:
            outcome.append(error.strerror or str(error) or type(error).__name__)

    # On a thread: looking a name up has no time-out of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(REACHABLE_WITHIN_S)
    reason = outcome[0] if outcome else f"no answer for {REACHABLE_WITHIN_S:.0f} s"
    if reason:
        raise NotReachableError(
            f"Cannot reach {name}:{port}: {reason}. Nothing was submitted. Check DATABRICKS_HOST and the network."
        )


def _shake_hands(connection: socket.socket, name: str) -> None:
    """Whether somebody answers. Nothing is sent, so who it is does not matter here: the client checks that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.wrap_socket(connection, server_hostname=name).close()


def _in_background(work: Callable[[], T], name: str) -> Future[T]:
    """Run a function on a daemon thread: unlike an executor's, it never holds the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


async def _workspace_client(identity: str | None) -> AsyncOpenAI:
    from databricks_supervisor import databricks_client

    return await asyncio.wrap_future(_in_background(lambda: databricks_client(identity), "client"))


def _build_local(port: int) -> AsyncOpenAI:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config
    from databricks_openai import AsyncDatabricksOpenAI

    keep_local()
    _no_proxy("127.0.0.1")
    host = f"http://127.0.0.1:{port}"
    config = Config(
        host=host, token="local", auth_type="pat", retry_timeout_seconds=2, http_timeout_seconds=5
    )
    client: AsyncOpenAI = AsyncDatabricksOpenAI(
        workspace_client=WorkspaceClient(config=config), use_ai_gateway=True, max_retries=0
    )
    return client


def _no_proxy(host: str) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [each for each in os.environ.get(name, "").split(",") if each]
        if host not in hosts:
            os.environ[name] = ",".join([*hosts, host])
