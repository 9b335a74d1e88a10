"""Which service answers: a supervisor, an app, any service of background Responses, or the local supervisor."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import NotReachableError, UsageError
from ..settings import AppSettings
from .hosts import check_address, check_listening, configured_workspace, without_user
from .local_process import ensure_local, keep_local

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from openai import AsyncOpenAI

T = TypeVar("T")
OPENAI_URL = "https://api.openai.com/v1"

BuildClient = Callable[[str | None], Awaitable["AsyncOpenAI"]]


@dataclass(frozen=True, slots=True)
class Backend:
    """A service.

    Attributes:
        kind: ``"supervisor"``, ``"local"``, ``"app"`` or ``"openai"``.
        host: The workspace's host; for ``"openai"`` the service's base URL; ``None`` for the local supervisor.
        app: Name of the Databricks App, if it is one.
    """

    kind: Literal["supervisor", "local", "app", "openai"]
    host: str | None = None
    app: str | None = None

    @property
    def local(self) -> bool:
        """Whether it is the local supervisor."""
        return self.kind == "local"

    @property
    def description(self) -> str:
        """What it is, in words without secrets."""
        return {
            "supervisor": f"the supervisor of {self.host}",
            "local": "the local supervisor, with demonstration data",
            "app": f"the app {self.app} of {self.host}",
            "openai": f"the service at {self.host}",
        }[self.kind]

    def start(self) -> Callable[[str | None], Awaitable[AsyncOpenAI]]:
        """As :meth:`connect`, for a graph that asks in the process's own name alone (``None``)."""
        build = self.connect()

        async def client(identity: str | None) -> AsyncOpenAI:
            if identity is not None:
                from databricks_supervisor.errors import ConfigurationError

                raise ConfigurationError(
                    f"Identity {identity!r} was named, but this process asks in its own name alone. "
                    "Nothing was submitted."
                )
            return await build(None)

        return client

    def connect(self) -> BuildClient:
        """Begin to start or to find the service, in the background.

        Returns:
            A function that builds a client, off the event loop: for a user's token, or for the process's own
            credentials (``None``). It raises ``ConfigurationError`` if that cannot work, and
            ``ServiceUnavailableError`` if the local supervisor does not come up.
        """
        if not self.local:
            return lambda token: _off_the_loop(lambda: self._build(token))
        starting = _in_background(ensure_local, "local-supervisor-start")

        async def local_client(token: str | None) -> AsyncOpenAI:
            from databricks_supervisor.errors import ServiceUnavailableError

            try:
                port = await asyncio.wrap_future(starting)
            except NotReachableError as error:
                raise ServiceUnavailableError(str(error)) from None
            return await _off_the_loop(lambda: _build_local(port, token))

        return local_client

    def _build(self, token: str | None) -> AsyncOpenAI:
        from databricks_supervisor import databricks_client
        from databricks_supervisor.errors import ConfigurationError
        from databricks_supervisor.redaction import scrub

        try:
            if self.kind == "openai":
                return _build_openai()
            if self.app is not None:
                return _build_app(self.app)
            return databricks_client() if token is None else _supervisor_client(str(self.host), token)
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"No client for {self.description}: {' '.join(scrub(str(error)).split())} Nothing was submitted."
            ) from None


def find_backend(settings: AppSettings, *, check: bool = True) -> Backend:
    """The service that the settings and the environment name; a workspace as the Databricks SDK resolves it.

    Args:
        settings: The app's settings.
        check: Whether to see if its host accepts connections, which takes 5 seconds at most.

    Raises:
        UsageError: The service needs a workspace or a key that is not configured, or its host is not one.
        NotReachableError: The host does not accept connections.
    """
    if settings.local:
        return Backend("local")
    if settings.backend == "openai":
        url = os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL
        if not os.environ.get("OPENAI_API_KEY", "").strip():
            raise UsageError(
                f"SUPERVISOR_BACKEND=openai: set OPENAI_API_KEY to the key of {without_user(url)}."
            )
        check_address("OPENAI_BASE_URL", url)
        if check:
            check_listening("OPENAI_BASE_URL", url)
        return Backend("openai", without_user(url))
    host = configured_workspace()
    if host is None and settings.app is None and settings.local is None:
        return Backend("local")
    if host is None:
        raise UsageError(
            "No workspace is configured. Set DATABRICKS_HOST and DATABRICKS_TOKEN (or a profile of the "
            "Databricks CLI), or use the local supervisor: SUPERVISOR_LOCAL=true, --local."
        )
    check_address("DATABRICKS_HOST", host)
    if check:
        check_listening("DATABRICKS_HOST", host)
    return Backend("supervisor" if settings.app is None else "app", host, settings.app)


def _in_background(work: Callable[[], T], name: str) -> Future[T]:
    """Run a function on a daemon thread, which unlike an executor's never keeps the process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


async def _off_the_loop(build: Callable[[], T]) -> T:
    return await asyncio.wrap_future(_in_background(build, "client"))


def _build_local(port: int, token: str | None) -> AsyncOpenAI:
    keep_local()
    _no_proxy("127.0.0.1")
    return _supervisor_client(f"http://127.0.0.1:{port}", token or "local")


def _supervisor_client(host: str, token: str) -> AsyncOpenAI:
    from databricks_supervisor.client.pool import workspace_client

    # "pat": the environment may have the client id and secret of an app too, and the SDK refuses two logins.
    return workspace_client(_connect_workspace(host=host, token=token, auth_type="pat").config)


def _build_app(name: str) -> AsyncOpenAI:
    from databricks_openai import AsyncDatabricksOpenAI

    workspace = _connect_workspace()
    url = workspace.apps.get(name=name).url
    if not url:
        raise ValueError(f"It has no URL: is the app {name} deployed?")
    # An app's proxy redirects who is not logged in to a page: a redirect is a refusal.
    client: AsyncOpenAI = AsyncDatabricksOpenAI(
        workspace_client=workspace, base_url=url.rstrip("/"), follow_redirects=False, max_retries=0
    )
    return client


def _build_openai() -> AsyncOpenAI:
    from openai import AsyncOpenAI

    return AsyncOpenAI(max_retries=0)


def _connect_workspace(**options: Any) -> WorkspaceClient:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.core import Config

    # Without these a host that does not answer blocks for five minutes.
    return WorkspaceClient(config=Config(retry_timeout_seconds=2, http_timeout_seconds=5, **options))


def _no_proxy(host: str) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [each for each in os.environ.get(name, "").split(",") if each]
        if host not in hosts:
            os.environ[name] = ",".join([*hosts, host])
