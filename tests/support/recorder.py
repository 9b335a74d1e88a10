"""An HTTP server that answers from a table and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its method, path without query, ``Authorization`` and body."""

    method: str
    path: str
    authorization: str | None
    body: str


class Recorder:
    """Listens on 127.0.0.1 while it is entered.

    Attributes:
        answers: What it says at which path, as JSON; 404 at any other.
        asked: Every request so far.
    """

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[Asked] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                path = self.path.partition("?")[0]
                body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
                recorder.asked.append(Asked(self.command, path, self.headers.get("authorization"), body))
                found = recorder.answers.get(path)
                sent = json.dumps({"message": "not found"} if found is None else found).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_POST = _answer

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def of(self, path: str) -> list[Asked]:
        """What it was asked at a path."""
        return [each for each in self.asked if each.path == path]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
