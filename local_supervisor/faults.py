"""Turning a fault of a behaviour into what the client experiences."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import JSONResponse, Response

from .behaviour import Fault
from .connection import DroppedConnection
from .errors import ApiError, error_for

GARBAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def error_response(error: ApiError, retry_after: float | None = None) -> Response:
    """An error status, with `Retry-After` where it has a meaning."""
    headers = {}
    if retry_after is not None and error.status in (429, 503):
        headers["retry-after"] = f"{retry_after:g}"
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


def garbage_response() -> Response:
    """A success whose body is no JSON, although it claims to be."""
    return Response(GARBAGE, media_type="application/json")


async def suffer(fault: Fault, retry_after: float | None = None) -> Response:
    """What the client gets in place of an answer.

    Raises:
        ApiError: The fault is written in no known way.
    """
    if isinstance(fault, int):
        return error_response(error_for(fault), retry_after)
    if isinstance(fault, dict):
        return _described(fault, retry_after)
    if fault == "drop":
        return DroppedConnection()
    if fault == "garbage":
        return garbage_response()
    if fault.startswith("timeout:"):
        await asyncio.sleep(float(fault.removeprefix("timeout:")))
        return DroppedConnection()
    raise ApiError(400, f"behaviour: unknown fault {fault!r}")


def _described(fault: dict[str, Any], retry_after: float | None) -> Response:
    error = error_for(int(fault.get("status", 500)), fault.get("message"), fault.get("code"))
    return error_response(error, fault.get("retry_after", retry_after))


def label(fault: Fault) -> str:
    """The fault as the list of submissions shows it."""
    return f"error {fault}" if isinstance(fault, int) else str(fault)
