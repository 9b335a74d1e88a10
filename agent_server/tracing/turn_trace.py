"""The trace of one turn: what the graph's callbacks say, as spans.

A turn has one root; below it a span for each submission, one for all polls of a job together, one for each
question to people, and one for each function that runs here. Everything is done in the event loop and in memory;
MLflow's own threads write it to the tracking server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.errors import GraphBubbleUp
from mlflow.entities.span import NO_OP_SPAN_TRACE_ID

from databricks_supervisor.errors import SupervisorError
from databricks_supervisor.items import Item, items_from_message
from databricks_supervisor.ledger import Turn
from databricks_supervisor.redaction import scrub

from ..http.caller import Caller
from .span_data import items_of_kind, messages_in, node_of, parts_of, plain, progress_of, question_in

if TYPE_CHECKING:
    from mlflow.entities import LiveSpan


TURN_TAG = "supervisor.turn_id"
"""Tag of every trace of a turn; attribute of its root."""
RESPONSE_ID = "supervisor.response_id"
"""Attribute: the job's id at the service."""
_USAGE = ("input_tokens", "output_tokens", "total_tokens")


@dataclass(slots=True)
class _Open:
    """Something that has begun.

    Attributes:
        name: The node's, or the function's.
        kind: MLflow's type of the span.
        since: When, in nanoseconds since the epoch.
        span: Its span, once there is one.
        token: What takes the span out of the context again.
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


class TurnTrace(BaseCallbackHandler):
    """Makes one trace of what a graph does for one turn, over as many drives as the turn takes in this process.

    Args:
        turn: The turn.
        given: What the graph was given, if that is known.
        ready: Whether spans can be made by now. Until then what happens is remembered.

    Attributes:
        ended: Whether the turn is over.
    """

    run_inline = True  # In the loop, and in the context of what it is told about.

    def __init__(self, turn: Turn, given: Any, ready: Callable[[], bool]) -> None:
        self.turn = turn
        self.ended = False
        self._ready = ready
        self._begun = False
        self._late: list[_Open] = []
        self._root = _Open("supervisor", "AGENT", inputs=question_in(messages_in(given)))
        self._runs: dict[UUID, _Open] = {}
        self._polls: _Open | None = None
        self._approval: _Open | None = None
        self._output: list[Item] = []

    @property
    def trace_id(self) -> str | None:
        """MLflow's id of the trace; ``None`` while there is none."""
        root = self._span(self._root) if self._begun else None
        return root.trace_id if root is not None and root.trace_id != NO_OP_SPAN_TRACE_ID else None

    def close(self, error: BaseException | None) -> None:
        """The trace is complete, as far as this process can make it so.

        Args:
            error: Why the turn goes no further here; ``None`` if it ended or waits for a person.
        """
        if not self._begun:
            return  # A drive that found nothing to do.
        self._end_polls(error)
        self._end_approval([])
        for left in self._runs.values():
            self._end(left, None, error)
        self._runs.clear()
        self.write()
        self._end(self._root, {"output": self._output}, error)

    def write(self) -> None:
        """Make the spans of what ended before spans could be made, if they can be made now."""
        if self._ready():
            late, self._late = self._late, []
            for step in late:
                self._finish(step)

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A node of the graph begins (LangChain's callback)."""
        node = node_of(metadata, kwargs.get("name"))
        if node is None or parent_run_id in self._runs or not isinstance(inputs, Mapping):
            return
        self._begun = True
        job, messages = inputs.get("job") or {}, inputs.get("messages") or []
        if self._root.inputs is None:
            self._root.inputs = question_in(messages)
        if node != "poll":
            self._end_polls(None)
        step = self._runs[run_id] = _Open(node)
        if node == "submit":
            step.attributes = {"supervisor.round": job.get("round")}
            self._activate(step)
        elif node == "poll" and self._polls is None:
            self._polls = _Open("poll", inputs={"response_id": job.get("response_id")})
            self._polls.attributes = {RESPONSE_ID: job.get("response_id")} | progress_of(job)
        elif node == "approve" and self._approval is None:
            asked = items_of_kind(messages, f"{job.get('response_id')}:", "mcp_approval_request")
            self._approval = _Open("approve", inputs={"requests": asked})
            self._approval.attributes = {RESPONSE_ID: job.get("response_id")}

    def on_chain_end(
        self, outputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """A node of the graph has returned (LangChain's callback)."""
        step = self._runs.pop(run_id, None)
        if step is None:
            return
        updates = [part for part in parts_of(outputs) if isinstance(part, Mapping)]
        job: Mapping[str, Any] = next((part["job"] for part in updates if part.get("job")), {})
        messages = [message for part in updates for message in messages_in(part)]
        self.ended = self.ended or bool(job.get("ended"))
        if step.name == "submit":
            self._submitted(step, job)
        elif step.name == "poll":
            self._polled(job, messages)
        elif step.name == "approve":
            decided = [i for m in messages for i in items_from_message(m)]
            if decided or job.get("ended"):
                self._end_approval(decided)
        if step.name in ("poll", "call_tools"):
            self._output += [item for message in messages for item in items_from_message(message)]

    def on_chain_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """A node has raised, or waits for a person (LangChain's callback)."""
        step = self._runs.pop(run_id, None)
        if step is None:
            return
        waits = isinstance(error, GraphBubbleUp)
        if step.name == "submit":
            step.attributes["supervisor.waits_for_person"] = waits
            self._end(step, None, None if waits else error)
        elif step.name == "poll":
            self._end_polls(error)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A function of ours begins (LangChain's callback)."""
        if (metadata or {}).get("langgraph_node") != "call_tools":
            return  # What a function of ours does inside is its own affair.
        name = str(kwargs.get("name") or (serialized or {}).get("name") or "function")
        call = self._runs[run_id] = _Open(name, "TOOL", inputs=plain(inputs or {}))
        if call_id := kwargs.get("tool_call_id"):
            call.attributes["supervisor.call_id"] = str(call_id)
        self._activate(call)

    def on_tool_end(
        self, output: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """A function of ours has returned (LangChain's callback)."""
        if (call := self._runs.pop(run_id, None)) is not None:
            shown = output.content if isinstance(output, ToolMessage) else output
            self._end(call, {"output": plain(shown)}, None)

    def on_tool_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """A function of ours has raised (LangChain's callback)."""
        if (call := self._runs.pop(run_id, None)) is not None:
            self._end(call, None, None if isinstance(error, GraphBubbleUp) else error)

    def _submitted(self, step: _Open, job: Mapping[str, Any]) -> None:
        failure = job.get("failure")
        if failure:
            step.attributes["supervisor.failure"] = failure["kind"]
        elif job.get("response_id"):
            step.attributes[RESPONSE_ID] = self._root.attributes[RESPONSE_ID] = job["response_id"]
        self._end(step, {"id": job.get("response_id"), "status": job.get("status")}, None, bool(failure))

    def _polled(self, job: Mapping[str, Any], messages: Sequence[BaseMessage]) -> None:
        if self._polls is None or not job:
            return
        usage, failure = job.get("usage") or {}, job.get("failure")
        self._polls.attributes |= progress_of(job)
        self._root.attributes |= {
            RESPONSE_ID: job.get("response_id"),
            "supervisor.status": job.get("status"),
        }
        if all(isinstance(usage.get(key), int) for key in _USAGE):
            self._polls.attributes["mlflow.chat.tokenUsage"] = {key: usage[key] for key in _USAGE}
        if failure:
            self._polls.attributes["supervisor.failure"] = failure["kind"]
        if job.get("ended") and not failure:  # A failure is raised in the pass that follows.
            self._end_polls(None)

    def _end_polls(self, error: BaseException | None) -> None:
        polls, self._polls = self._polls, None
        if polls is not None:
            failed = "supervisor.failure" in polls.attributes
            self._end(polls, {"status": polls.attributes.get("supervisor.status")}, error, failed)

    def _end_approval(self, decided: list[Item]) -> None:
        approval, self._approval = self._approval, None
        if approval is not None:
            self._end(approval, {"decisions": decided}, None)

    def _activate(self, step: _Open) -> None:
        """Make its span the current one: for the headers of its request, and for what MLflow logs by itself."""
        if self._span(step) is not None:
            from mlflow.tracing.provider import set_span_in_context

            step.token = set_span_in_context(step.span)  # type: ignore[arg-type]

    def _end(self, step: _Open, outputs: Any, error: BaseException | None, failed: bool = False) -> None:
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
            self._late.append(step)

    def _finish(self, step: _Open) -> None:
        if (span := self._span(step)) is None:
            return
        if step is self._root:
            span.set_inputs(step.inputs)
        attributes = {key: value for key, value in step.attributes.items() if value is not None}
        status = "ERROR" if step.failed else "OK"
        span.end(step.outputs, attributes, status, end_time_ns=step.until)

    def _span(self, step: _Open) -> LiveSpan | None:
        if step.span is None and self._ready():
            from mlflow import start_span_no_context
            from mlflow.tracing.constant import TraceMetadataKey

            if step is self._root:
                thread = self.turn.thread
                metadata = {TraceMetadataKey.TRACE_SESSION: Caller.name_of(thread) or thread}
                if user := unquote(thread.partition("/")[0]) if "/" in thread else "":
                    metadata[TraceMetadataKey.TRACE_USER] = user
                step.span = start_span_no_context(
                    step.name,
                    step.kind,
                    inputs=step.inputs,
                    attributes={TURN_TAG: self.turn.turn_id},
                    tags={TURN_TAG: self.turn.turn_id},
                    metadata=metadata,
                    start_time_ns=step.since,
                )
            elif (root := self._span(self._root)) is not None:
                step.span = start_span_no_context(
                    step.name, step.kind, root, inputs=step.inputs, start_time_ns=step.since
                )
        return step.span
