"""Poll transport: one bounded connection pool, raw bytes.

Measured on loopback (``python -m benchmarks polls``), CPU time of one GET of 0.6 KB: ``responses.retrieve`` 1.1 ms,
the SDK's client without its types 0.6 ms, httpx2 0.39 ms, aiohttp 0.11 ms, a bare socket 0.04 ms. So polls use
aiohttp if the caller's client has the SDK's default configuration. A client with its own proxies, hooks, transport
or ``Auth`` is used itself, as it is for all other requests.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .credentials import SharedCredentials

if TYPE_CHECKING:
    import aiohttp
    from openai import AsyncOpenAI
    from yarl import URL


MAX_POLLS = 192
"""Concurrent polls. With a service that answers in 0.2 s, that is up to 960 polls a second."""
MAX_CONNECTIONS = 256
MAX_SDK_REQUESTS = 32
"""Concurrent requests through a client of the SDK, whose pool collapses when too many wait (measured)."""
KEEPALIVE_S = 75.0
"""Longer than the longest usual polling interval, so that the next poll reuses its connection."""

# Not copied from the caller's client: aiohttp sets them itself.
_OWN_HEADERS = frozenset({"accept-encoding", "authorization", "connection", "content-type", "host"})


@dataclass(frozen=True, slots=True)
class PollResponse:
    """An HTTP response, with the attributes of an httpx response.

    Attributes:
        status_code: HTTP status.
        content: Its body.
        headers: Its headers, case-insensitive.
        reason_phrase: The text after the status.
        request: The request.
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


@dataclass(frozen=True, slots=True)
class Request:
    """A request: its headers, with names in lower case. No repr shows them."""

    headers: Mapping[str, str] = field(repr=False)


class PollTransport:
    """GETs with the address and credentials of a client of the OpenAI SDK, through a separate connection pool.

    The pool is closed when the transport is garbage-collected (a running poll holds a reference), at the latest when
    ``asyncio.run`` shuts the event loop down.
    """

    def __init__(self, openai: AsyncOpenAI, http: Any, credentials: SharedCredentials | None) -> None:
        self._openai = openai
        self._base_url = str(openai.base_url).rstrip("/")
        self._http = http
        self._credentials = credentials
        self._slots = asyncio.Semaphore(MAX_POLLS)
        self._pool: AsyncGenerator[aiohttp.ClientSession, None] | None = None
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def of(cls, openai: AsyncOpenAI) -> PollTransport | None:
        """The transport for a client, or ``None`` if polls must use the client itself."""
        try:
            http: Any = openai._client
            credentials = SharedCredentials.of(http)
            if _is_plain(openai, http, credentials):
                return cls(openai, http, credentials)
        except AttributeError:  # Another release with other internals: use the client itself.
            pass
        return None

    async def get(self, path: str, *, timeout_s: float) -> PollResponse:
        """GET a path below the client's base URL. Waits, in order, while ``MAX_POLLS`` are running.

        Args:
            path: Begins with a slash; already percent-encoded.
            timeout_s: Time-out of the whole exchange, without that wait, in seconds.

        Raises:
            aiohttp.ClientError, TimeoutError: There was no complete response.
            Exception: The SDK's, if it cannot obtain credentials.
        """
        async with self._slots:
            sent = {**self._headers, "authorization": await self._authorization()}
            session, url, limit = self._session or await self._open(), self._url(path), _limit(timeout_s)
            try:
                async with session.get(url, headers=sent, timeout=limit, allow_redirects=False) as response:
                    content = await response.read()
            except TimeoutError:
                raise TimeoutError(f"no response within {timeout_s:g} s") from None
        return PollResponse(response.status, content, response.headers, response.reason or "", Request(sent))

    async def _authorization(self) -> str:
        if self._credentials is not None:
            return (await self._credentials.authenticate())["Authorization"]
        return self._openai.auth_headers["Authorization"]

    @functools.cached_property
    def _headers(self) -> dict[str, str]:
        given = [*self._http.headers.items(), *self._openai.default_headers.items()]
        by_name = {name.lower(): value for name, value in given}
        return {n: v for n, v in by_name.items() if isinstance(v, str) and n not in _OWN_HEADERS}

    def _url(self, path: str) -> URL:
        from yarl import URL

        return URL(self._base_url + path, encoded=True)

    async def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._pool = _pool(self._http._transport)
            self._session = await anext(self._pool)
        return self._session


async def _pool(sdk: Any) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """A session that the event loop closes when the generator is garbage-collected or the loop is shut down.

    Closes the connections of the SDK's client too: the SDK warns if they outlive their loop.
    """
    import aiohttp

    tls = sdk._pool._ssl_context
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_S, ssl=tls)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, trust_env=False) as session:
        try:
            yield session
        finally:
            if not sdk._pool._requests:  # A factory may return one client several times.
                await sdk.aclose()


@functools.lru_cache(maxsize=16)
def _limit(timeout_s: float) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=timeout_s)  # One timer: three take a tenth of the poll's CPU time.


def _is_plain(openai: Any, http: Any, credentials: SharedCredentials | None) -> bool:
    """Whether a client is configured by address, headers, key or Databricks' token, and TLS settings only."""
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
