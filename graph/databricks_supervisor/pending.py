"""What a completed response waits for before its turn can go on, and the follow-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from .endings import end_without_answer
from .errors import TooManyRoundsError
from .items import Item, items_from_message
from .items.output import pending_approvals, pending_calls
from .run import Run
from .state import Job, SupervisorState

__all__ = ["Pending", "follow_up", "pending_of"]


@dataclass(frozen=True, slots=True)
class Pending:
    """What waits.

    Attributes:
        approvals: ``mcp_approval_request`` items without a decision in the thread.
        calls: ``function_call`` items of the caller's own functions without an output.
    """

    approvals: list[Item]
    calls: list[Item]

    def __bool__(self) -> bool:
        return bool(self.approvals or self.calls)


def pending_of(state: SupervisorState, run: Run) -> Pending:
    """What the current response waits for, with the decisions and outputs that the thread has by now."""
    own = f"{state['job']['response_id']}:"
    items = [
        item
        for message in state["messages"]
        if (message.id or "").startswith(own)
        for item in items_from_message(message)
    ]
    return Pending(
        approvals=pending_approvals(items),
        calls=pending_calls(items, {function.name for function in run.settings.functions}),
    )


async def follow_up(run: Run, job: Job, messages: Sequence[Any]) -> dict[str, Any]:
    """The state update that starts the turn's next round, a submission of its own in the ledger."""
    if job["round"] + 1 < run.settings.max_rounds:
        following: Job = {**job, "round": job["round"] + 1, "response_id": None, "status": "new"}
        return {"messages": list(messages), "job": following}
    error = TooManyRoundsError(
        f"The turn went through {run.settings.max_rounds} rounds of approvals and function calls without an "
        "answer, which is the cap (max_rounds). The thread has everything so far. Send a new message to go on "
        "from there.",
        response_id=job.get("response_id"),
        status=job.get("status"),
    )
    ended = await end_without_answer(run, job, error)
    said: list[BaseMessage] = ended.get("messages", [])
    return {"messages": [*messages, *said], "job": ended["job"]}
