"""How the programs of our own listen: on a free port, which they write to a file."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import uvicorn


def serve(app: Any, port_file: Path) -> None:
    """Run an ASGI app until the process is killed."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    unfinished = port_file.with_suffix(".new")
    unfinished.write_text(str(listener.getsockname()[1]))
    unfinished.rename(port_file)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
