"""A service on 127.0.0.1 that answers what its script says, byte for byte, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

import httpx2
import openai

API_KEY = "secret-token"

Item = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One line of the script.

    Attributes:
        status: HTTP status.
        body: Bytes, or anything that becomes JSON.
        headers: More headers.
        drop: Cut the connection: ``"unread"`` before anything was read, ``"unanswered"`` after the whole
            request was, ``"halfway"`` in the middle of the answer.
        until: Wait for this event before answering.
        reached: Set when the request is there.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: Literal["unread", "unanswered", "halfway"] | None = None
    until: asyncio.Event | None = None
    reached: asyncio.Event | None = None

    @property
    def raw(self) -> bytes:
        """The body as it is written."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Request:
    """What the service was asked."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        """The body as JSON."""
        return json.loads(self.raw)


class ScriptedService:
    """Creates, retrieves and cancels answer from a script each; the last line of a script repeats.

    Attributes:
        creates: Answers to ``POST /responses``.
        retrieves: Answers to ``GET /responses/{id}``.
        cancels: Answers to ``POST /responses/{id}/cancel``.
        requests: Everything that was asked, in order.
    """

    def __init__(
        self, creates: Iterable[Answer] = (), retrieves: Iterable[Answer] = (), cancels: Iterable[Answer] = ()
    ) -> None:
        self.creates, self.retrieves, self.cancels = list(creates), list(retrieves), list(cancels)
        self.requests: list[Request] = []
        self.url = ""

    @property
    def posts(self) -> list[Request]:
        """The creates that arrived."""
        return [request for request in self.requests if request.path.endswith("/responses")]

    @property
    def gets(self) -> list[Request]:
        """The retrieves that arrived."""
        return [
            request for request in self.requests if "/responses/" in request.path and request.method == "GET"
        ]

    @property
    def cancelled(self) -> list[Request]:
        """The cancels that arrived."""
        return [request for request in self.requests if request.path.endswith("/cancel")]

    def client(self, api_key: Any = API_KEY, **options: Any) -> openai.AsyncOpenAI:
        """A client of this service, as the OpenAI SDK makes it: one that repeats by itself."""
        # Without certificates to load, a client is made forty times faster.
        http = httpx2.AsyncClient(verify=False, trust_env=False)
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=api_key, http_client=http, **options)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, one request after the other."""
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        lines = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in lines}
        answer = self._next(method, path)
        if answer.drop == "unread":
            self.requests.append(Request(method, path, headers, b""))
            writer.transport.abort()
            return False
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append(Request(method, path, headers, raw))
        if answer.reached is not None:
            answer.reached.set()
        if answer.until is not None:
            await answer.until.wait()
        if answer.drop == "unanswered":
            writer.transport.abort()
            return False
        said = {"content-type": "application/json", "content-length": str(len(answer.raw)), **answer.headers}
        listed = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        writer.write(f"HTTP/1.1 {answer.status} {_phrase(answer.status)}\r\n{listed}\r\n".encode())
        if answer.drop == "halfway":
            writer.write(answer.raw[: len(answer.raw) // 2])
            await writer.drain()
            writer.close()
            return False
        writer.write(answer.raw)
        await writer.drain()
        return True

    def _next(self, method: str, path: str) -> Answer:
        if "/responses" not in path:
            return Answer(404, {"message": f"not part of the contract: {path}"})
        script = (
            self.retrieves if method == "GET" else self.cancels if path.endswith("/cancel") else self.creates
        )
        if not script:
            return refusal(418, f"not in the script: {method} {path}")
        return script.pop(0) if len(script) > 1 else script[0]


@asynccontextmanager
async def serving(service: ScriptedService) -> AsyncIterator[ScriptedService]:
    """Serve on a free port while the block runs."""
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.ensure_future(service.handle(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def response(
    status: str = "completed",
    *output: Item,
    id: str = "resp_1",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Answer:
    """An answer that is a background response."""
    body = {"id": id, "object": "response", "status": status, "output": list(output), **more}
    return Answer(200, body, headers or {})


def message(text: str, id: str | None = "msg_1", status: str | None = "completed") -> Item:
    """A message of the assistant, as an output item."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": id, "role": "assistant", "status": status, "content": content}


def refusal(status: int, text: str = "no", headers: dict[str, str] | None = None) -> Answer:
    """An answer with an error, as OpenAI words it."""
    return Answer(status, {"error": {"code": "oops", "message": text}}, headers or {})


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Status"
