"""A service with the contract's routes and minimal cost, in a separate process.

One callback per exchange, prepared bodies, no framework: one core serves about 20,000 polls a second, so the service
is not the bottleneck (``python -m benchmarks jobs`` prints its share of a core).

A job is in progress until its duration has passed. Its id contains its number and creation time: the service stores
only the time of a job's last poll.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

SMALL_ITEMS = 0
_FOREVER = 1e9


class Service:
    """A running service, as seen from the process that started it.

    Attributes:
        port: Its port.
        url: Its address.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def base_url(self) -> str:
        """Base URL for a client of the OpenAI SDK."""
        return f"{self.url}/ai-gateway/mlflow/v1"

    def stats(self) -> dict[str, Any]:
        """Its counters: see :meth:`_State.stats`. Each call starts a new window."""
        with urlopen(f"{self.url}/stats", timeout=30) as answer:
            stats: dict[str, Any] = json.load(answer)
        return stats


def body(response_id: str, status: str, items: int) -> bytes:
    """A background response: 0.6 KB without items, and about 1 KB more for each."""
    output = [
        {
            "type": "message",
            "id": f"msg_{number:04}",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": ("word " * 160)[:820], "annotations": [], "logprobs": []}
            ],
        }
        for number in range(items)
    ]
    response = {
        "id": response_id,
        "object": "response",
        "created_at": 1_750_000_000,
        "status": status,
        "background": True,
        "error": None,
        "incomplete_details": None,
        "instructions": "You are a helpful assistant.",
        "metadata": {},
        "model": "databricks-claude-sonnet-4-5",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
    }
    return json.dumps(response).encode()


class _State:
    """State of the service, shared by its connections."""

    _ID = "resp_0000000_000000000000"

    def __init__(self, items: int, duration_s: float) -> None:
        self.duration_s = duration_s
        self.connections = self.most_connections = 0
        self.created = 0
        self._began = time.monotonic()
        self._polled: dict[bytes, float] = {}
        self._running = self._around(body(self._ID, "in_progress", items))
        self._done = self._around(body(self._ID, "completed", max(1, items)))
        self._reset()

    def _reset(self) -> None:
        self._intervals: list[float] = []
        self._window = (time.monotonic(), time.process_time())
        self._polls, self._seen = 0, set[bytes]()
        self.most_connections = self.connections

    def _around(self, answer: bytes) -> tuple[bytes, bytes]:
        head, tail = answer.split(self._ID.encode(), 1)
        length = len(answer)
        headers = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        return headers.encode() + head, tail

    def create(self) -> bytes:
        """Response to a POST: a new job."""
        self.created += 1
        age_ms = int((time.monotonic() - self._began) * 1000)
        head, tail = self._running
        return head + f"resp_{self.created:07}_{age_ms:012}".encode() + tail

    def retrieve(self, response_id: bytes) -> bytes:
        """Response to a GET."""
        now = time.monotonic()
        last = self._polled.get(response_id)
        if last is not None:
            self._intervals.append(now - last)
        self._polled[response_id] = now
        self._polls += 1
        self._seen.add(response_id)
        created_s = int(response_id[-12:]) / 1000
        head, tail = self._done if now - self._began - created_s > self.duration_s else self._running
        return head + response_id + tail

    def stats(self) -> bytes:
        """``polls`` and jobs ``seen`` in this window, ``cpu`` in cores, ``intervals`` between polls of a job."""
        wall, cpu = self._window
        seconds = time.monotonic() - wall
        answer = {
            "polls": self._polls,
            "jobs": len(self._polled),
            "seen": len(self._seen),
            "created": self.created,
            "seconds": seconds,
            "cpu": (time.process_time() - cpu) / seconds,
            "connections": self.most_connections,
            "intervals": self._intervals,
        }
        self._reset()
        raw = json.dumps(answer).encode()
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(raw)}\r\nConnection: close\r\n\r\n".encode() + raw


class _Connection(asyncio.Protocol):
    def __init__(self, served: _State) -> None:
        self._served = served
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._served.connections += 1
        self._served.most_connections = max(self._served.most_connections, self._served.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        self._served.connections -= 1

    def data_received(self, data: bytes) -> None:
        self._read += data
        end = self._read.find(b"\r\n\r\n")
        if end < 0:
            return
        method, path, _ = self._read[: self._read.index(b"\r\n")].split(b" ")
        if method == b"POST":
            head = self._read[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._read) < end + 4 + length:
                return
        self._read = b""
        self._transport.write(self._answer(method, path))

    def _answer(self, method: bytes, path: bytes) -> bytes:
        if method == b"POST":
            return self._served.create()
        if b"/responses/" in path:
            return self._served.retrieve(path.rsplit(b"/", 1)[1])
        if path == b"/stats":
            return self._served.stats()
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@contextlib.contextmanager
def serving(*, items: int = SMALL_ITEMS, duration_s: float = _FOREVER) -> Iterator[Service]:
    """Serve in a separate process while the block runs.

    Args:
        items: Number of output items in each response.
        duration_s: Duration of a job, in seconds.
    """
    command = [sys.executable, "-m", "benchmarks.service", f"--items={items}", f"--duration={duration_s}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Service(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


async def _serve(items: int, duration_s: float) -> None:
    served = _State(items, duration_s)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(served), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)  # Ends when the parent process ends.
    server.close()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--items", type=int, default=SMALL_ITEMS)
    options.add_argument("--duration", type=float, default=_FOREVER)
    given = options.parse_args()
    asyncio.run(_serve(given.items, given.duration))
