"""ClientPool of the service: one per identity and event loop, built off the loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..errors import ConfigurationError, SupervisorError
from ..redaction import scrub
from .responses import SupervisorClient

if TYPE_CHECKING:
    from databricks.sdk.core import Config
    from openai import AsyncOpenAI


ClientFactory = Callable[[str | None], "AsyncOpenAI | Awaitable[AsyncOpenAI]"]
"""Builds a client of the OpenAI SDK for a named identity (``None``: the process's own)."""

MOST_IDLE_S = 600.0
MOST_KEPT = 64
MOST_IDLE_WHEN_MANY_S = 60.0
"""Longer than any usual cadence: a client whose jobs are polled is not thrown out, however many there are."""


def databricks_client(identity: str | None = None) -> AsyncOpenAI:
    """The default ``client_factory``: the workspace of the process's environment, through AI Gateway.

    Blocks while it imports the SDKs (a second) and asks the workspace for its settings; the graph calls it
    in a thread.

    Raises:
        ConfigurationError: No workspace is configured, or an identity was named, which needs a
            ``client_factory`` that knows it.
    """
    if identity is not None:
        raise ConfigurationError(
            f"Identity {identity!r} was named, but the graph has no client_factory that knows identities. "
            "Give create_supervisor_graph(client_factory=…) one. Nothing was submitted."
        )
    from databricks.sdk.core import Config

    try:
        # Without these a host that does not answer blocks for five minutes (docs/wire.md: Credentials).
        return workspace_client(Config(retry_timeout_seconds=2, http_timeout_seconds=5))
    except Exception as error:
        raise ConfigurationError(
            f"No workspace to talk to: {' '.join(scrub(str(error)).split())} Nothing was submitted. "
            "Set DATABRICKS_HOST and DATABRICKS_TOKEN (or another login that the Databricks SDK knows)."
        ) from None


def workspace_client(config: Config) -> AsyncOpenAI:
    """A client of a workspace's AI Gateway, with the login of a ``databricks.sdk`` configuration.

    ``AsyncDatabricksOpenAI(use_ai_gateway=True)`` asks in the same way and may be used instead. Its package imports
    MLflow, pandas and PySpark, which take 150 MB and 1.5 to 4 s (measured), and its typed calls cut ids.
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
    """Hands out one client per identity and event loop, and lets go of those that nobody asks for any more.

    A server has an identity per user, and a client with its TLS settings is about a megabyte. One that is let
    go of closes its connections when the last exchange that uses it is over.

    Args:
        factory: Builds one. A plain function is called in a thread; it may block.
        clock: Monotonic seconds.
    """

    def __init__(self, factory: ClientFactory, clock: Callable[[], float] = time.monotonic) -> None:
        self._factory = factory
        self._clock = clock
        self._lock = threading.Lock()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str | None, _Kept]] = (
            WeakKeyDictionary()
        )

    async def get(self, identity: str | None) -> SupervisorClient:
        """The client of this identity for the running loop.

        Raises:
            ConfigurationError: It cannot be built.
        """
        clients = self._of(asyncio.get_running_loop())
        kept = clients.get(identity)
        if kept is None:
            self._let_go(clients)
            kept = clients[identity] = _Kept(asyncio.ensure_future(self._build(identity)))
        kept.asked_at = self._clock()
        if kept.client is not None:
            return kept.client
        try:
            kept.client = await asyncio.shield(kept.building)
        except BaseException:
            if kept.building.done() and clients.get(identity) is kept:
                del clients[identity]
            raise
        return kept.client

    def invalidate(self, identity: str | None, stale: SupervisorClient | None = None) -> None:
        """Build a new one next time: its credentials are stale.

        Args:
            identity: Whose.
            stale: The client that was refused, if known: a newer one is kept.
        """
        clients = self._loops.get(asyncio.get_running_loop(), {})
        kept = clients.get(identity)
        if kept is not None and (stale is None or kept.client is stale):
            del clients[identity]

    def _let_go(self, clients: dict[str | None, _Kept]) -> None:
        idle_s = MOST_IDLE_S if len(clients) < MOST_KEPT else MOST_IDLE_WHEN_MANY_S
        oldest = self._clock() - idle_s
        for identity in [name for name, kept in clients.items() if kept.asked_at < oldest]:
            del clients[identity]

    def _of(self, running: asyncio.AbstractEventLoop) -> dict[str | None, _Kept]:
        with self._lock:
            if running not in self._loops:
                # A client holds its loop: weak keys alone would keep every loop of every asyncio.run().
                for closed in [loop for loop in self._loops if loop.is_closed()]:
                    del self._loops[closed]
            return self._loops.setdefault(running, {})

    async def _build(self, identity: str | None) -> SupervisorClient:
        try:
            if inspect.iscoroutinefunction(self._factory):
                client = await self._factory(identity)
            else:
                made = await asyncio.to_thread(self._factory, identity)
                client = await made if inspect.isawaitable(made) else made
        except SupervisorError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"client_factory({identity!r}) failed: {type(error).__name__}: {scrub(str(error))} "
                "Nothing was submitted."
            ) from None
        return SupervisorClient(client)


class _Kept:
    """A client, or its building."""

    __slots__ = ("asked_at", "building", "client")

    def __init__(self, building: asyncio.Future[SupervisorClient]) -> None:
        self.building = building
        self.client: SupervisorClient | None = None
        self.asked_at = 0.0
