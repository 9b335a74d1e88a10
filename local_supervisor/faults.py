"""Converts a fault of a behaviour to the response that the client gets."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import JSONResponse, Response

from .behaviour import Fault
from .connection import DroppedConnection
from .errors import ApiError, error_for

GARBAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def error_response(error: ApiError, retry_after: float | None = None) -> Response:
    """A response with an error status, and `Retry-After` for 429 and 503."""
    headers = {}
    if retry_after is not None and error.status in (429, 503):
        headers["retry-after"] = f"{retry_after:g}"
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


def garbage_response() -> Response:
    """A 200 whose content type is JSON and whose body is not."""
    return Response(GARBAGE, media_type="application/json")


async def fault_response(fault: Fault, retry_after: float | None = None) -> Response:
    """The response for a fault.

    Raises:
        ApiError: The fault is unknown.
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
    """The fault's name in the list of submissions."""
    return f"error {fault}" if isinstance(fault, int) else str(fault)
