"""A job as a script: when each item appears. A retrieve's response is a pure function of script and time."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from .behaviour import Behaviour

Item = dict[str, Any]
TERMINAL = frozenset({"completed", "failed", "cancelled", "incomplete"})
_QUEUED_SHARE = 0.05
_WEIGHTS = {"message": 1.6, "function_call": 0.6, "mcp_approval_request": 0.4}
_ID_MAY_BE_ABSENT = "function_call_output"


@dataclass(frozen=True)
class Step:
    """An output item, and when it starts and is complete, in seconds after the job's creation."""

    item: Item
    start: float
    done: float


@dataclass(frozen=True)
class Script:
    """The course of a job.

    Args:
        steps: Items in the order of the output.
        end: Seconds until the final status.
        waits_at: Index of the first item that needs the result of a tool that is still running.
    """

    steps: list[Step]
    end: float
    queued_until: float
    initial_status: str
    final_status: str
    unfinished: bool = False
    null_output: bool = False
    error: Item | None = None
    incomplete_details: Item | None = None
    usage: Item = field(default_factory=dict)
    waits_at: int | None = None

    def to_json(self) -> str:
        """The script as JSON text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Script:
        """The script from its JSON text."""
        fields = json.loads(text)
        fields["steps"] = [Step(**step) for step in fields["steps"]]
        return Script(**fields)

    def reachable(self, elapsed: float) -> float:
        """The elapsed time, limited to the start of the item that waits for a tool."""
        if self.waits_at is None:
            return elapsed
        return min(elapsed, self.steps[self.waits_at].start)

    def status(self, elapsed: float) -> str:
        """The response's status at that time."""
        if self.waits_at is None and elapsed >= self.end:
            return self.final_status
        return self.initial_status if elapsed < self.queued_until else "in_progress"

    def output(self, elapsed: float) -> list[Item] | None:
        """The output's items at that time."""
        if elapsed < self.queued_until:
            return None if self.null_output else []
        shown: list[Item] = []
        for step in self.steps:
            if step.done <= elapsed:
                shown.append(step.item)
            elif self.unfinished and step.start <= elapsed:
                shown.append(partial(step.item))
        if not shown and self.null_output:
            return None
        return shown

    @cached_property
    def moments(self) -> list[float]:
        """The times at which the response changes, ascending."""
        times = {self.queued_until, self.end}
        for step in self.steps:
            times.update((step.start, step.done))
        return sorted(times)


def write_script(
    items: list[Item],
    behaviour: Behaviour,
    echoed: int = 0,
    usage: Item | None = None,
    waits_at: int | None = None,
) -> Script:
    """Schedule the items of an output.

    Args:
        items: The whole output.
        behaviour: Duration, form and outcome.
        echoed: Number of items at the beginning that are history, and complete from the start.
        usage: The response's `usage`.
        waits_at: See `Script`.
    """
    new = items[echoed:]
    seconds = behaviour.duration_s if behaviour.duration_s is not None else min(7.0, 1.2 * max(1, len(new)))
    end = 0.0 if behaviour.instant else seconds / behaviour.speed
    queued_until = end * _QUEUED_SHARE if behaviour.initial_status != "in_progress" else 0.0
    spans = _spans(new, queued_until, end)
    if behaviour.out_of_order:
        for first in range(len(spans) % 2, len(spans) - 1, 2):
            (start, done), (later_start, later_done) = spans[first : first + 2]
            spans[first : first + 2] = [
                (start, later_done),
                (later_start, done),
            ]  # the later item is complete before the earlier one
    steps = [Step(item, queued_until, queued_until) for item in items[:echoed]]
    steps += [
        Step(item, start, done) for item, (start, done) in zip(_formed(new, behaviour), spans, strict=True)
    ]
    error = behaviour.error
    if error is None and behaviour.final_status == "failed":
        error = {"code": "server_error", "message": "The job failed on the remote side."}
    if behaviour.final_status == "completed" and not behaviour.error_in_completed:
        error = None
    details = behaviour.incomplete_details
    if details is None and behaviour.final_status == "incomplete":
        details = {"reason": "max_output_tokens"}
    return Script(
        steps=steps,
        end=end,
        queued_until=queued_until,
        initial_status=behaviour.initial_status,
        final_status=behaviour.final_status,
        unfinished=behaviour.unfinished or behaviour.out_of_order,
        null_output=behaviour.null_output,
        error=error,
        incomplete_details=details,
        usage=usage or {},
        waits_at=waits_at,
    )


def _spans(items: list[Item], begin: float, end: float) -> list[tuple[float, float]]:
    weights = [_WEIGHTS.get(str(item.get("type")), 1.0) for item in items]
    total = sum(weights) or 1.0
    spans: list[tuple[float, float]] = []
    passed = 0.0
    for index, weight in enumerate(weights):
        start = begin + (end - begin) * passed / total
        passed += weight
        # exactly `end`, so that no rounding error separates the last item from the final status
        done = end if index == len(weights) - 1 else begin + (end - begin) * passed / total
        spans.append((start, done))
    return spans


def _formed(items: list[Item], behaviour: Behaviour) -> list[Item]:
    formed = [dict(item) for item in items]
    if formed and behaviour.final_item_without_id:
        formed[-1]["id"] = None
    if formed and behaviour.last_item_unfinished:
        formed[-1]["status"] = "in_progress"
    return formed


def partial(item: Item) -> Item:
    """An item in its unfinished phase: no id yet, half of its content (docs/wire.md: Retrieve)."""
    shown = {**item, "status": "in_progress"}
    if item.get("type") != _ID_MAY_BE_ABSENT or "id" in item:
        shown["id"] = None
    if isinstance(item.get("content"), list):
        shown["content"] = [_half(part) for part in item["content"]]
    for key in ("arguments", "output"):
        if isinstance(item.get(key), str):
            shown[key] = item[key][: len(item[key]) // 2]
    if item.get("type") == "message":
        shown["status"] = "incomplete"
    return shown


def _half(part: Any) -> Any:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return {**part, "text": part["text"][: len(part["text"]) // 2]}
    return part
