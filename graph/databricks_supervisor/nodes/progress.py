"""Progress of a job, as custom stream events."""

from __future__ import annotations

from typing import Any, Literal

from langgraph.types import StreamWriter
from typing_extensions import TypedDict

HEARTBEAT_S = 15.0
_SHORTEST_S = 0.001


class Progress(TypedDict):
    """An event of ``stream_mode="custom"``: on start, on every change and at least every 15 seconds.

    Attributes:
        type: Always ``"supervisor.progress"``.
        response_id: Id of the job at the service.
        status: Its last status, or ``"unreachable"`` while reads of it fail.
        elapsed_s: Seconds since it was submitted.
        polls: Polls so far.
        items: Output items so far that are complete.
    """

    type: Literal["supervisor.progress"]
    response_id: str
    status: str
    elapsed_s: float
    polls: int
    items: int


class ProgressWriter:
    """Writes progress when it changes, and as a heartbeat when it does not."""

    def __init__(self, writer: StreamWriter, response_id: str) -> None:
        self._writer = writer
        self._response_id = response_id
        self._last: tuple[Any, ...] | None = None
        self._said_at = 0.0

    def said(self, status: str, items: int, elapsed_s: float) -> None:
        """Note what an earlier pass of the node has said, and when."""
        self._last, self._said_at = (status, items), elapsed_s

    def due_s(self, elapsed_s: float) -> float:
        """Seconds until the next heartbeat."""
        return max(_SHORTEST_S, self._said_at + HEARTBEAT_S - elapsed_s)

    def say(self, *, status: str, elapsed_s: float, polls: int, items: int) -> None:
        """Say how things stand, if that is new or has not been said for a while."""
        if (status, items) == self._last and elapsed_s - self._said_at < HEARTBEAT_S - _SHORTEST_S:
            return
        self._last, self._said_at = (status, items), elapsed_s
        self._writer(
            Progress(
                type="supervisor.progress",
                response_id=self._response_id,
                status=status,
                elapsed_s=round(elapsed_s, 3),
                polls=polls,
                items=items,
            )
        )
