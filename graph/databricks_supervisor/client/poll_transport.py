"""The way of the polls: one bounded pool of connections, and nothing between it and the bytes.

Measured on loopback (``python -m benchmarks polls``), CPU of one GET of 0.6 KB: ``responses.retrieve`` 1.1 ms,
the SDK's client without its types 0.6, httpx2 0.39, aiohttp 0.11, a bare socket 0.04. So polls go through
aiohttp, where the caller's client is one that only the SDKs' defaults have shaped. A client with proxies, hooks, a
transport or an ``Auth`` of its own is used as it is, and so is everything that is not a poll.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .credentials import SharedCredentials

if TYPE_CHECKING:
    import aiohttp
    from openai import AsyncOpenAI
    from yarl import URL


MOST_AT_ONCE = 192
"""Polls under way at once. A service that takes 0.2 s to answer is then asked up to 960 times a second."""
MOST_CONNECTIONS = 256
MOST_THROUGH_SDK = 32
"""The same through a client of the SDK, whose pool collapses when more wait than it holds (measured)."""
KEPT_ALIVE_S = 75.0
"""Longer than the slowest usual cadence, so that the next poll finds its connection open."""

# aiohttp says itself what it can decode.
_OWN_HEADERS = frozenset({"accept-encoding", "authorization", "connection", "content-type", "host"})


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read like one of httpx.

    Attributes:
        status_code: HTTP status.
        content: Its body.
        headers: Its headers, whatever their case.
        reason_phrase: The words after the status.
        request: What was asked.
    """

    status_code: int
    content: bytes
    headers: Mapping[str, str]
    reason_phrase: str
    request: Request

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode(errors="replace")


class Request:
    """What was asked: its headers, by names in small letters, which no repr shows."""

    __slots__ = ("headers",)

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers


class PollTransport:
    """GETs with the address and the credentials of a client of the OpenAI SDK, through a pool of its own.

    The pool is closed when nobody has the transport any more, and at the latest when the event loop ends
    as ``asyncio.run`` ends it: whoever is in the middle of a poll has it.
    """

    def __init__(self, openai: AsyncOpenAI, http: Any, credentials: SharedCredentials | None) -> None:
        self._openai = openai
        self._base_url = str(openai.base_url).rstrip("/")
        self._http = http
        self._credentials = credentials
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._pool: AsyncGenerator[aiohttp.ClientSession, None] | None = None
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def of(cls, openai: AsyncOpenAI) -> PollTransport | None:
        """The transport for a client, or ``None`` if its requests are to go through the client itself."""
        try:
            http: Any = openai._client
            credentials = SharedCredentials.of(http)
            if _is_plain(openai, http, credentials):
                return cls(openai, http, credentials)
        except AttributeError:  # The insides of some other release: the client itself knows what to do.
            pass
        return None

    async def get(self, path: str, *, timeout_s: float) -> Answer:
        """GET a path below the client's base URL, once a place is free; places are given in order.

        Args:
            path: Begins with a slash, and is quoted already.
            timeout_s: Time-out of the whole exchange, from when a place is free, in seconds.

        Raises:
            aiohttp.ClientError, TimeoutError: There was no whole answer.
            Exception: What the SDK raises that cannot obtain credentials.
        """
        async with self._slots:
            sent = {**self._headers, "authorization": await self._authorization()}
            session, url, limit = self._session or await self._open(), self._url(path), _limit(timeout_s)
            try:
                async with session.get(url, headers=sent, timeout=limit, allow_redirects=False) as answer:
                    content = await answer.read()
            except TimeoutError:
                raise TimeoutError(f"no answer within {timeout_s:g} s") from None
        return Answer(answer.status, content, answer.headers, answer.reason or "", Request(sent))

    async def _authorization(self) -> str:
        if self._credentials is not None:
            return (await self._credentials.authenticate())["Authorization"]
        return self._openai.auth_headers["Authorization"]

    @functools.cached_property
    def _headers(self) -> dict[str, str]:
        asked = {
            n.lower(): v for n, v in [*self._http.headers.items(), *self._openai.default_headers.items()]
        }
        return {n: v for n, v in asked.items() if isinstance(v, str) and n not in _OWN_HEADERS}

    def _url(self, path: str) -> URL:
        from yarl import URL

        return URL(self._base_url + path, encoded=True)

    async def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._pool = _pool(self._http._transport)
            self._session = await anext(self._pool)
        return self._session


async def _pool(sdk: Any) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """A pool that the event loop closes when the generator is dropped, or when the loop itself ends.

    So are the connections of the SDK's client: where they outlive their loop, the SDK complains of that.
    """
    import aiohttp

    tls = sdk._pool._ssl_context
    connector = aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=KEPT_ALIVE_S, ssl=tls)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, trust_env=False) as session:
        try:
            yield session
        finally:
            if not sdk._pool._requests:  # A factory may give one client to many.
                await sdk.aclose()


@functools.lru_cache(maxsize=16)
def _limit(timeout_s: float) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=timeout_s)  # One timer an exchange; three cost a tenth of the poll.


def _is_plain(openai: Any, http: Any, credentials: SharedCredentials | None) -> bool:
    """Whether a client asks in no other way than address, headers, key or Databricks' token, and TLS settings."""
    transport = http._transport
    pool = transport._pool
    kinds = (type(openai), type(http), type(transport), type(pool), type(pool._network_backend))
    return (
        all(kind.__module__.partition(".")[0] in _LIBRARIES for kind in kinds)
        and type(openai).__name__ in ("AsyncOpenAI", "AsyncDatabricksOpenAI")
        and type(transport).__name__ == "AsyncHTTPTransport"
        and type(pool).__name__ == "AsyncConnectionPool"
        and type(pool._network_backend).__name__ == "AutoBackend"
        and not any(http._mounts.values())
        and not any(http.event_hooks.values())
        and not (http.params or http.cookies or openai.default_query)
        and not any(n.lower() == "authorization" for n in [*http.headers, *openai.default_headers])
        and not (pool._http2 or pool._uds or pool._local_address or pool._socket_options or pool._proxy)
        and (credentials is not None or (http.auth is None and _has_plain_key(openai)))
    )


_LIBRARIES = frozenset({"openai", "databricks_openai", "httpx", "httpx2", "httpcore", "httpcore2"})


def _has_plain_key(openai: Any) -> bool:
    key = openai.api_key
    return (
        openai._api_key_provider is None
        and openai._provider_runtime is None
        and openai.workload_identity is None
        and isinstance(key, str)
        and bool(key)
        and key.isascii()
        and key.isprintable()
    )
