"""A machine between the graph and a service, which counts requests and loses answers when it is told to."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

PATIENCE_S = 120.0

Fate = Literal["passes", "never arrives", "answer lost", "answer held"]
"""What happens to a request: it passes; it is lost before the service sees it, and the connection breaks at once, or
only after :meth:`Proxy.let_go`; the service answers and the connection breaks; or the answer waits for
:meth:`Proxy.let_go`.
"""


@dataclass(frozen=True)
class Exchange:
    """A request that reached the proxy.

    Attributes:
        method: Its method.
        path: Its path.
        headers: Its headers, by lower-case name.
        body: Its body, read as JSON.
        status: The service's answer; None if it never arrived.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int | None


class Proxy:
    """Listens at ``base_url``, and passes on to a service.

    Args:
        target: Address of the service, with its path.
        creates: Ending of the path whose POSTs create jobs.

    Example:
        with Proxy("http://127.0.0.1:1234/v1", "/responses") as proxy:
            proxy.next_create = "answer lost"
            ...  # talk to proxy.base_url
            assert len(proxy.creates) == 1
    """

    def __init__(self, target: str, creates: str) -> None:
        parts = urlsplit(target)
        self._host = parts.netloc
        self._creates = creates
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}{parts.path}"
        self.next_create: Fate = "passes"
        self.next_poll: Fate = "passes"
        self.exchanges: list[Exchange] = []
        self._news = threading.Condition()
        self._held = 0
        self._gone = threading.Event()

    @property
    def creates(self) -> list[Exchange]:
        """Attempts to create a job, in order."""
        return [exchange for exchange in self.exchanges if self._is_create(exchange.method, exchange.path)]

    def wait_until_held(self) -> None:
        """Wait until an answer is held back."""
        with self._news:
            assert self._news.wait_for(lambda: self._held > 0, PATIENCE_S), "no request came"

    def let_go(self) -> None:
        """Let the answers go that are held back."""
        self._gone.set()

    def wait_for(self, condition: Callable[[list[Exchange]], bool]) -> None:
        """Wait until something is true of the exchanges."""
        with self._news:
            assert self._news.wait_for(lambda: condition(self.exchanges), PATIENCE_S), "it did not come about"

    def _is_create(self, method: str, path: str) -> bool:
        return method == "POST" and urlsplit(path).path.endswith(self._creates)

    def _fate(self, method: str, path: str) -> Fate:
        with self._news:
            if self._is_create(method, path):
                fate, self.next_create = self.next_create, "passes"
            elif method == "GET":
                fate, self.next_poll = self.next_poll, "passes"
            else:
                fate = "passes"
        return fate

    def _add(self, exchange: Exchange) -> None:
        with self._news:
            self.exchanges.append(exchange)
            self._news.notify_all()

    def _hold(self) -> None:
        with self._news:
            self._held += 1
            self._news.notify_all()
        self._gone.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gone.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            read = json.loads(body) if body else None
            fate = proxy._fate(self.command, self.path)
            if fate == "never arrives":
                proxy._add(Exchange(self.command, self.path, headers, read, None))
                self.close_connection = True
                return
            status, answered, content = self._forward(body)
            proxy._add(Exchange(self.command, self.path, headers, read, status))
            if fate == "answer held":
                proxy._hold()
            if fate == "answer lost":
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in answered:
                if name.lower() not in (
                    "content-length",
                    "transfer-encoding",
                    "connection",
                    "date",
                    "server",
                ):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _pass_on

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(proxy._host, timeout=PATIENCE_S)
            kept = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("host", "connection", "accept-encoding")
            }
            try:
                connection.request(self.command, self.path, body or None, kept)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the output of the tests to themselves."""

    return Handler
