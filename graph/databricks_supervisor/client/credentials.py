"""Credentials of the Databricks SDK, obtained off the event loop.

The SDK renews tokens synchronously, and its ``BearerAuth`` asks it on the event loop for each request: a
token service that takes two seconds stops every stream of a server for two seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

_KEPT_S = 10.0


class SharedCredentials:
    """Asks for credentials in a thread, once for everyone who asks meanwhile, and keeps them for 10 s.

    The SDK renews a token well before it ends (40 s or more), so one that is a few seconds old is still good.

    Args:
        ask: Returns the headers that a request needs, such as ``Authorization``. May block.
        clock: Monotonic seconds.
    """

    def __init__(
        self, ask: Callable[[], Mapping[str, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._headers: Mapping[str, str] = {}
        self._until = float("-inf")
        self._asking: asyncio.Future[Mapping[str, str]] | None = None

    @classmethod
    def of(cls, http: Any) -> SharedCredentials | None:
        """Those of an HTTP client (httpx's or its successor's) that Databricks authorises; ``None`` for others.

        From then on the client's own requests get their credentials off the event loop too.
        """
        auth = http.auth
        if type(auth).__name__ != "BearerAuth" or not callable(getattr(auth, "get_headers_func", None)):
            return None
        taken = getattr(auth.async_auth_flow, "__self__", None)
        if isinstance(taken, cls):
            return taken
        shared = cls(auth.get_headers_func)
        auth.async_auth_flow = shared.async_auth_flow
        return shared

    async def authenticate(self) -> Mapping[str, str]:
        """The headers. (By this name :func:`.refusals.is_unsent` knows where a failure was.)

        Raises:
            Exception: Whatever the SDK raises; it is asked again for the next one who asks.
        """
        if self._clock() < self._until:
            return self._headers
        asking = self._asking
        if asking is None or asking.done() or asking.get_loop() is not asyncio.get_running_loop():
            asking = self._asking = asyncio.ensure_future(self._obtain())
        return await asyncio.shield(asking)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """What an HTTP client runs for each request (``httpx.Auth``)."""
        request.headers["Authorization"] = (await self.authenticate())["Authorization"]
        yield request

    async def _obtain(self) -> Mapping[str, str]:
        headers = await asyncio.to_thread(self._ask)
        self._headers, self._until = headers, self._clock() + _KEPT_S
        return headers
