"""The graph's state: the conversation, and the job that answers it."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from langchain_core.messages import AnyMessage, BaseMessage, RemoveMessage
from langgraph.graph.message import REMOVE_ALL_MESSAGES, Messages, add_messages
from typing_extensions import TypedDict


class Decision(TypedDict):
    """A decision about one action.

    Attributes:
        approve: Yes or no.
        by: ``"person"`` or ``"policy"``.
        reason: Why not.
        asked: Name and arguments of the action, where no item of the job has them (an unknown outcome).
    """

    approve: bool
    by: str
    reason: NotRequired[str]
    asked: NotRequired[dict[str, Any]]


class JobFailure(TypedDict):
    """Why a job ended without its answer: the error's class, its message, and whether that is in ``messages``."""

    kind: str
    message: str
    said: bool
    status_code: NotRequired[int | None]


class Job(TypedDict, total=False):
    """The job of the thread's current turn. JSON alone.

    Attributes:
        turn_id: The turn, as the ledger has it.
        round: 0 for the question; one more for each follow-up (approvals, function outputs) in the turn.
        response_id: Id of the background response at the service, whole.
        status: Its last status, in OpenAI's words where the service has others.
        submitted_at: When it was submitted, in seconds since the epoch.
        news_at: When something new arrived last, in seconds since the epoch.
        delivered: How many of its output items are in ``messages``.
        polls: Polls so far, as of the last news.
        decisions: Decisions so far, by approval id, while others are still open.
        permit: The attempt whose outcome is unknown and that a person allowed to be repeated.
        call_permits: The same for client-side functions, by call id.
        asking: What may raise an interrupt in this pass of ``call_tools``: one call, by its id; or ``"*"``: the
            node itself, about calls of unknown outcome. Not set: a call, if it is the only one.
        complaint: Why the last answer to an interrupt was not accepted.
        usage: Token counts, as the service gave them.
        tools: The caller's own function tools: a call of one ends the turn, and its output begins the next.
        ended: Whether the turn is over.
        failure: Why it ended without an answer.
        incomplete: Why its answer is incomplete, as the service calls it.
    """

    turn_id: str
    round: int
    response_id: str | None
    status: str
    submitted_at: float
    news_at: float
    delivered: int
    polls: int
    decisions: dict[str, Decision]
    permit: int | None
    call_permits: dict[str, int]
    asking: str | None
    complaint: str | None
    usage: dict[str, Any] | None
    tools: list[dict[str, Any]]
    ended: bool
    failure: JobFailure | None
    incomplete: str


def merge_messages(left: Messages, right: Messages) -> Messages:
    """``add_messages``, but removing a missing message is no error: two processes may apply the same input."""
    there = {
        each.id for each in (left if isinstance(left, list) else [left]) if isinstance(each, BaseMessage)
    }
    given = right if isinstance(right, list) else [right]
    return add_messages(
        left,
        [
            each
            for each in given
            if not isinstance(each, RemoveMessage) or each.id in there or each.id == REMOVE_ALL_MESSAGES
        ],
    )


class SupervisorState(TypedDict):
    """State of the graph. ``messages`` is shared with a parent graph; ``job`` is the supervisor's own."""

    messages: Annotated[list[AnyMessage], merge_messages]
    job: Job


class SupervisorInput(TypedDict):
    """A run's input.

    Attributes:
        messages: The question. A ``RemoveMessage`` among them removes a message from the thread when the turn
            begins.
        turn_id: Runs with the same turn id are one turn; for callers that decide themselves what a repeat is.
        follows: Id of the turn that the caller saw as the thread's latest, ``""`` for none: the run begins only if
            nothing has come since but this very question, which is then one turn (:class:`.ThreadMovedError`).
        tools: Schemas of functions that the caller runs itself (``{"type": "function", …}``): a call of one
            ends the turn, and its output, as a ``ToolMessage``, is the next question.
    """

    messages: Annotated[list[AnyMessage], merge_messages]
    turn_id: NotRequired[str]
    follows: NotRequired[str]
    tools: NotRequired[list[dict[str, Any]]]


class GraphInput(TypedDict):
    """LangGraph's input: the question together with its turn, so that one checkpoint has both."""

    messages: Annotated[list[AnyMessage], merge_messages]
    job: Job


class SupervisorOutput(TypedDict):
    """Output for a parent graph: only messages (a shared scalar would conflict under parallel Sends)."""

    messages: Annotated[list[AnyMessage], merge_messages]
