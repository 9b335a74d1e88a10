"""The spans of one trace: begun, ended, and made as soon as MLflow can make them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow.entities.span import NO_OP_SPAN_TRACE_ID

from databricks_supervisor.errors import SupervisorError
from databricks_supervisor.redaction import scrub

if TYPE_CHECKING:
    from mlflow.entities import LiveSpan

TURN_TAG = "supervisor.turn_id"
"""Tag of every trace of a turn; attribute of its root."""


@dataclass(slots=True)
class Step:
    """Something that has begun, and becomes a span.

    Attributes:
        name: The node's, or the function's.
        kind: MLflow's type of the span.
        since: When it began, in nanoseconds since the epoch.
        span: Its span, once there is one.
        token: Takes the span out of the context again.
        inputs: What it was given.
        attributes: What is known of it.
        outputs: What came of it.
        failed: Whether that is an error.
        until: When it ended, in nanoseconds since the epoch.
    """

    name: str
    kind: str = "CHAIN"
    since: int = field(default_factory=time.time_ns)
    span: LiveSpan | None = None
    token: Any = None
    inputs: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: Any = None
    failed: bool = False
    until: int = 0


class Spans:
    """The spans of one trace.

    Args:
        root: The step that all others are part of.
        turn_id: The turn, for the tag.
        session: The conversation's name.
        user: The conversation's owner; ``""`` if it has none.
        ready: Whether spans can be made by now. Until then the steps that ended are kept.
    """

    def __init__(self, root: Step, turn_id: str, session: str, user: str, ready: Callable[[], bool]) -> None:
        self._root = root
        self._turn_id = turn_id
        self._session = session
        self._user = user
        self._ready = ready
        self._ended: list[Step] = []

    @property
    def trace_id(self) -> str | None:
        """MLflow's id of the trace; ``None`` while there is none."""
        root = self._span(self._root)
        return root.trace_id if root is not None and root.trace_id != NO_OP_SPAN_TRACE_ID else None

    def activate(self, step: Step) -> None:
        """Make a step's span the current one: for the headers of its request, and for what MLflow logs by itself."""
        if self._span(step) is not None:
            from mlflow.tracing.provider import set_span_in_context

            step.token = set_span_in_context(step.span)  # type: ignore[arg-type]

    def end(self, step: Step, outputs: Any, error: BaseException | None, failed: bool = False) -> None:
        """A step has ended; failed if it is an error although nothing was raised."""
        if step.token is not None:
            from mlflow.tracing.provider import detach_span_from_context

            detach_span_from_context(step.token)
        if isinstance(error, ConnectionAbortedError) or (
            error is not None and not isinstance(error, Exception)
        ):
            step.attributes["supervisor.detached"] = True  # This process ends; the job does not.
        elif error is not None:
            known = isinstance(error, SupervisorError)
            step.attributes["supervisor.error"] = scrub(
                f"{type(error).__name__}: {error}" if known else type(error).__name__
            )
            failed = True
        step.outputs, step.failed, step.until = outputs, failed, time.time_ns()
        if self._ready():
            self._finish(step)
        else:
            self._ended.append(step)

    def write(self) -> None:
        """Make the spans of the steps that ended before spans could be made, if they can be made now."""
        if self._ready():
            ended, self._ended = self._ended, []
            for step in ended:
                self._finish(step)

    def _finish(self, step: Step) -> None:
        if (span := self._span(step)) is None:
            return
        if step is self._root:
            span.set_inputs(step.inputs)
        attributes = {key: value for key, value in step.attributes.items() if value is not None}
        status = "ERROR" if step.failed else "OK"
        span.end(step.outputs, attributes, status, end_time_ns=step.until)

    def _span(self, step: Step) -> LiveSpan | None:
        if step.span is None and self._ready():
            from mlflow import start_span_no_context
            from mlflow.tracing.constant import TraceMetadataKey

            if step is self._root:
                metadata = {TraceMetadataKey.TRACE_SESSION: self._session}
                if self._user:
                    metadata[TraceMetadataKey.TRACE_USER] = self._user
                step.span = start_span_no_context(
                    step.name,
                    step.kind,
                    inputs=step.inputs,
                    attributes={TURN_TAG: self._turn_id},
                    tags={TURN_TAG: self._turn_id},
                    metadata=metadata,
                    start_time_ns=step.since,
                )
            elif (root := self._span(self._root)) is not None:
                step.span = start_span_no_context(
                    step.name, step.kind, root, inputs=step.inputs, start_time_ns=step.since
                )
        return step.span
