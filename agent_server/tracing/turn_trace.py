"""The trace of one turn: what the graph's callbacks say, as spans.

A turn has one root; below it a span for each submission, one for all polls of a job together, one for each
question to people, and one for each function that runs here. Everything is done in the event loop and in memory;
MLflow's own threads write it to the tracking server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.errors import GraphBubbleUp

from databricks_supervisor.items import Item, items_from_message
from databricks_supervisor.items.output import items_of
from databricks_supervisor.ledger import Turn

from .span_data import messages_in, node_of, parts_of, plain, progress_of, question_in
from .spans import Spans, Step

RESPONSE_ID = "supervisor.response_id"
"""Attribute: the job's id at the service."""
_USAGE = ("input_tokens", "output_tokens", "total_tokens")


class TurnTrace(BaseCallbackHandler):
    """Makes one trace of what a graph does for one turn, over all runs that the turn takes in this process.

    Args:
        turn: The turn.
        given: The graph's input, if there is one.
        session: The conversation's name.
        user: The conversation's owner; ``""`` if it has none.
        ready: Whether spans can be made by now. Until then what happens is remembered.
        at_end: Called when a run of the turn is over, with the error that ended it.

    Attributes:
        turn: The turn.
        spans: Its spans.
        ended: Whether the turn is over.
    """

    run_inline = True  # In the event loop, and in the context of the node or function that it is called for.

    def __init__(
        self,
        turn: Turn,
        given: Any,
        session: str,
        user: str,
        ready: Callable[[], bool],
        at_end: Callable[[TurnTrace, BaseException | None], None],
    ) -> None:
        self.turn = turn
        self._at_end = at_end
        self.ended = False
        self._begun = False
        self._root = Step("supervisor", "AGENT", inputs=question_in(messages_in(given)))
        self.spans = Spans(self._root, turn.turn_id, session, user, ready)
        self._runs: dict[UUID, Step] = {}
        self._polls: Step | None = None
        self._approval: Step | None = None
        self._output: list[Item] = []

    @property
    def trace_id(self) -> str | None:
        """MLflow's id of the trace; ``None`` while there is none."""
        return self.spans.trace_id if self._begun else None

    def end(self, error: BaseException | None) -> None:
        """A run of the turn is over: the trace is complete, or stays open for the next run."""
        self._at_end(self, error)

    def close(self, error: BaseException | None) -> None:
        """The trace is complete, as far as this process can make it so.

        Args:
            error: Why the turn goes no further here; ``None`` if it ended or waits for a person.
        """
        if not self._begun:
            return  # The run found nothing to do.
        self._end_polls(error)
        self._end_approval([])
        for left in self._runs.values():
            self.spans.end(left, None, error)
        self._runs.clear()
        self.spans.write()
        self.spans.end(self._root, {"output": self._output}, error)

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
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
        step = self._runs[run_id] = Step(node)
        if node == "submit":
            step.attributes = {"supervisor.round": job.get("round")}
            self.spans.activate(step)
        elif node == "poll" and self._polls is None:
            self._polls = Step("poll", inputs={"response_id": job.get("response_id")})
            self._polls.attributes = {RESPONSE_ID: job.get("response_id")} | progress_of(job)
        elif node == "approve" and self._approval is None:
            items = items_of(messages, job.get("response_id"))
            asked = [item for item in items if item.get("type") == "mcp_approval_request"]
            self._approval = Step("approve", inputs={"requests": asked})
            self._approval.attributes = {RESPONSE_ID: job.get("response_id")}

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
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

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A node has raised, or waits for a person (LangChain's callback)."""
        step = self._runs.pop(run_id, None)
        if step is None:
            return
        waits = isinstance(error, GraphBubbleUp)
        if step.name == "submit":
            step.attributes["supervisor.waits_for_person"] = waits
            self.spans.end(step, None, None if waits else error)
        elif step.name == "poll":
            self._end_polls(error)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A function of ours begins (LangChain's callback)."""
        if (metadata or {}).get("langgraph_node") != "call_tools":
            return  # What a function of ours does inside is its own affair.
        name = str(kwargs.get("name") or (serialized or {}).get("name") or "function")
        call = self._runs[run_id] = Step(name, "TOOL", inputs=plain(inputs or {}))
        if call_id := kwargs.get("tool_call_id"):
            call.attributes["supervisor.call_id"] = str(call_id)
        self.spans.activate(call)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A function of ours has returned (LangChain's callback)."""
        if (call := self._runs.pop(run_id, None)) is not None:
            shown = output.content if isinstance(output, ToolMessage) else output
            self.spans.end(call, {"output": plain(shown)}, None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A function of ours has raised (LangChain's callback)."""
        if (call := self._runs.pop(run_id, None)) is not None:
            self.spans.end(call, None, None if isinstance(error, GraphBubbleUp) else error)

    def _submitted(self, step: Step, job: Mapping[str, Any]) -> None:
        failure = job.get("failure")
        if failure:
            step.attributes["supervisor.failure"] = failure["kind"]
        elif job.get("response_id"):
            step.attributes[RESPONSE_ID] = self._root.attributes[RESPONSE_ID] = job["response_id"]
        self.spans.end(step, {"id": job.get("response_id"), "status": job.get("status")}, None, bool(failure))

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
            self.spans.end(polls, {"status": polls.attributes.get("supervisor.status")}, error, failed)

    def _end_approval(self, decided: list[Item]) -> None:
        approval, self._approval = self._approval, None
        if approval is not None:
            self.spans.end(approval, {"decisions": decided}, None)
