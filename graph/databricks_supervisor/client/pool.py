"""Clients of the service: one per identity and event loop, built off the event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..errors import ConfigurationError, SupervisorError
from ..redaction import scrub
from .dialect import Dialect
from .responses import SupervisorClient

if TYPE_CHECKING:
    from databricks.sdk.core import Config
    from openai import AsyncOpenAI


ClientFactory = Callable[[str | None], "AsyncOpenAI | Awaitable[AsyncOpenAI]"]
"""Builds a client of the OpenAI SDK for a named identity (``None``: the process's own)."""

MAX_IDLE_S = 600.0
MANY_CLIENTS = 64
MAX_IDLE_WHEN_MANY_S = 60.0
"""Longer than any usual polling interval: a client whose jobs are polled stays, however many clients there are."""


def databricks_client(identity: str | None = None) -> AsyncOpenAI:
    """The default ``client_factory``: the workspace of the process's environment, through AI Gateway.

    Blocks while it imports the SDKs (about 1 s) and reads the workspace's settings; the graph calls it in a thread.

    Args:
        identity: Must be ``None``: named identities need another ``client_factory``.

    Raises:
        ConfigurationError: No workspace is configured, or an identity was named.
    """
    if identity is not None:
        raise ConfigurationError(
            f"Identity {identity!r} was named, but the default client_factory has no named identities. "
            "Give create_supervisor_graph(client_factory=…) one that has. Nothing was submitted."
        )
    from databricks.sdk.core import Config

    try:
        # Without these a host that does not answer blocks for five minutes (docs/wire.md: Credentials).
        return workspace_client(Config(retry_timeout_seconds=2, http_timeout_seconds=5))
    except Exception as error:
        raise ConfigurationError(
            f"No workspace is configured: {' '.join(scrub(str(error)).split())} Nothing was submitted. "
            "Set DATABRICKS_HOST and DATABRICKS_TOKEN (or another login that the Databricks SDK supports)."
        ) from None


def workspace_client(config: Config) -> AsyncOpenAI:
    """A client of a workspace's AI Gateway, with the login of a ``databricks.sdk`` configuration.

    ``AsyncDatabricksOpenAI(use_ai_gateway=True)`` sends the same requests and may be used instead. Its package
    imports MLflow, pandas and PySpark (150 MB and 1.5 to 4 s, measured), and its typed calls truncate ids.
    """
    import httpx2
    import openai

    class BearerAuth(httpx2.Auth):
        get_headers_func = staticmethod(config.authenticate)

    return openai.AsyncOpenAI(
        base_url=f"{config.host}/ai-gateway/mlflow/v1",
        api_key="in-the-http-client",
        http_client=openai.DefaultAsyncHttpxClient(auth=BearerAuth()),
        max_retries=0,
    )


class ClientPool:
    """Returns one client per identity and event loop, and drops idle clients.

    A server has an identity per user, and a client with its TLS settings takes about 1 MB. A dropped client closes
    its connections after its last exchange.

    Args:
        factory: Builds a client. A plain function is called in a thread, so it may block.
        clock: Returns monotonic seconds.
        dialect: What the service wants; ``None``: what its address tells.
    """

    def __init__(
        self,
        factory: ClientFactory,
        clock: Callable[[], float] = time.monotonic,
        dialect: Dialect | None = None,
    ) -> None:
        self._factory = factory
        self._dialect = dialect
        self._clock = clock
        self._lock = threading.Lock()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Clients] = WeakKeyDictionary()

    async def get(self, identity: str | None) -> SupervisorClient:
        """The client of this identity for the running loop.

        Raises:
            ConfigurationError: It cannot be built.
        """
        clients = self._clients(asyncio.get_running_loop())
        entry = clients.get(identity)
        if entry is None:
            self._drop_idle(clients)
            entry = clients[identity] = _Entry(asyncio.ensure_future(self._build(identity)))
        entry.used_at = self._clock()
        if entry.client is not None:
            return entry.client
        try:
            entry.client = await asyncio.shield(entry.building)
        except BaseException:
            if entry.building.done() and clients.get(identity) is entry:
                del clients[identity]
            raise
        return entry.client

    def invalidate(self, identity: str | None, stale: SupervisorClient | None = None) -> None:
        """Drop a client whose credentials are stale, so that :meth:`get` builds a new one.

        Args:
            identity: The identity of the client.
            stale: The client whose credentials were refused, if known: a newer one is not dropped.
        """
        clients = self._loops.get(asyncio.get_running_loop(), {})
        entry = clients.get(identity)
        if entry is not None and (stale is None or entry.client is stale):
            del clients[identity]

    def _drop_idle(self, clients: _Clients) -> None:
        max_idle_s = MAX_IDLE_S if len(clients) < MANY_CLIENTS else MAX_IDLE_WHEN_MANY_S
        oldest = self._clock() - max_idle_s
        for identity in [name for name, entry in clients.items() if entry.used_at < oldest]:
            del clients[identity]

    def _clients(self, running: asyncio.AbstractEventLoop) -> _Clients:
        with self._lock:
            if running not in self._loops:
                # A client refers to its loop, so weak keys alone would keep the loop of every asyncio.run().
                for closed in [loop for loop in self._loops if loop.is_closed()]:
                    del self._loops[closed]
            return self._loops.setdefault(running, {})

    async def _build(self, identity: str | None) -> SupervisorClient:
        try:
            if inspect.iscoroutinefunction(self._factory):
                client = await self._factory(identity)
            else:
                result = await asyncio.to_thread(self._factory, identity)
                client = await result if inspect.isawaitable(result) else result
        except SupervisorError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"client_factory({identity!r}) failed: {type(error).__name__}: {scrub(str(error))} "
                "Nothing was submitted."
            ) from None
        return SupervisorClient(client, self._dialect)


@dataclass(slots=True, eq=False)
class _Entry:
    building: asyncio.Future[SupervisorClient]
    client: SupervisorClient | None = None
    used_at: float = 0.0


_Clients = dict[str | None, _Entry]
