"""Progress of a job, as custom stream events."""

from __future__ import annotations

from typing import Any, Literal

from langgraph.types import StreamWriter
from typing_extensions import TypedDict

from ..state import Job

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
        self._reported_at = 0.0

    def resume(self, job: Job) -> None:
        """Take an earlier pass of the node as the last report."""
        self._last = (job["status"], job["delivered"])
        self._reported_at = job["news_at"] - job["submitted_at"]

    def due_s(self, elapsed_s: float) -> float:
        """Seconds until the next heartbeat."""
        return max(_SHORTEST_S, self._reported_at + HEARTBEAT_S - elapsed_s)

    def report(self, job: Job, elapsed_s: float, *, new_items: int = 0, unreachable: bool = False) -> None:
        """Write an event if something changed, or if the last one is too old.

        Args:
            job: The job.
            elapsed_s: Seconds since it was submitted.
            new_items: Output items that are not yet counted in the job.
            unreachable: Whether reads of it fail.
        """
        status = "unreachable" if unreachable else job["status"]
        items = job["delivered"] + new_items
        if (status, items) == self._last and elapsed_s - self._reported_at < HEARTBEAT_S - _SHORTEST_S:
            return
        self._last, self._reported_at = (status, items), elapsed_s
        self._writer(
            Progress(
                type="supervisor.progress",
                response_id=self._response_id,
                status=status,
                elapsed_s=round(elapsed_s, 3),
                polls=job["polls"],
                items=items,
            )
        )
