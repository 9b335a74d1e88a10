"""The whole app behind a real port, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from agent_server.http.app import build_app
from agent_server.settings import load_settings

__all__ = ["Served", "serving_app"]


class Served:
    """A server that runs.

    Attributes:
        url: Its address.
        http: A client of it.
    """

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url, self.http = url, http

    def ask(self, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        """Post a body, as JSON unless it is bytes."""
        if isinstance(body, bytes):
            return self.http.post("/responses", content=body, headers=headers)
        return self.http.post("/responses", json=body, headers=headers)


@contextmanager
def serving_app(**settings: Any) -> Iterator[Served]:
    """Serve the app while the block runs; the service is found by the environment.

    Args:
        settings: As in ``AppSettings``.
    """
    app = build_app(load_settings(**settings))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the server ended"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield Served(url, http)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
