"""Connections that the service can drop: a lost connection is not an error status."""

from __future__ import annotations

import asyncio
import socket
import struct

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_transports: dict[tuple[str, int], asyncio.Transport] = {}


class CuttableProtocol(H11Protocol):
    """uvicorn's protocol, which also records the transport of every client address."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            _transports[self.client] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.client is not None:
            _transports.pop(self.client, None)
        super().connection_lost(exc)


class DroppedConnection(Response):
    """Instead of a response: the client sees a connection reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host, port = scope["client"]
        transport = _transports.get((host, port))
        if transport is not None:
            sock: socket.socket = transport.get_extra_info("socket")
            # SO_LINGER with 0 s: closing sends a reset
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass
