"""Credentials of the Databricks SDK, obtained off the event loop.

The SDK renews tokens synchronously, and its ``BearerAuth`` calls it on the event loop for each request: a token
service that takes two seconds blocks every stream of a server for two seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

_CACHE_S = 10.0


class SharedCredentials:
    """Obtains credentials in a thread, once for all concurrent callers, and caches them for 10 s.

    The SDK renews a token at least 40 s before it expires, so one that is a few seconds old is still valid.

    Args:
        ask: Returns the headers that a request needs, such as ``Authorization``. May block.
        clock: Returns monotonic seconds.
    """

    def __init__(
        self, ask: Callable[[], Mapping[str, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._headers: Mapping[str, str] = {}
        self._valid_until = float("-inf")
        self._pending: asyncio.Future[Mapping[str, str]] | None = None

    @classmethod
    def of(cls, http: Any) -> SharedCredentials | None:
        """The credentials of an httpx (or httpx2) client with Databricks' ``BearerAuth``; ``None`` for others.

        From then on the client's own requests obtain their credentials off the event loop too.
        """
        auth = http.auth
        if type(auth).__name__ != "BearerAuth" or not callable(getattr(auth, "get_headers_func", None)):
            return None
        current = getattr(auth.async_auth_flow, "__self__", None)
        if isinstance(current, cls):
            return current
        shared = cls(auth.get_headers_func)
        auth.async_auth_flow = shared.async_auth_flow
        return shared

    async def authenticate(self) -> Mapping[str, str]:
        """The headers. (:func:`.failures.is_unsent` recognises this function's name in a traceback.)

        Raises:
            Exception: Any error of the SDK. It is not cached.
        """
        if self._clock() < self._valid_until:
            return self._headers
        pending = self._pending
        if pending is None or pending.done() or pending.get_loop() is not asyncio.get_running_loop():
            pending = self._pending = asyncio.ensure_future(self._obtain())
        return await asyncio.shield(pending)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Called by the HTTP client for each request (``httpx.Auth``)."""
        request.headers["Authorization"] = (await self.authenticate())["Authorization"]
        yield request

    async def _obtain(self) -> Mapping[str, str]:
        headers = await asyncio.to_thread(self._ask)
        self._headers, self._valid_until = headers, self._clock() + _CACHE_S
        return headers
