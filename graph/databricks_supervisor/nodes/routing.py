"""Which node is next: pure functions of the state."""

from __future__ import annotations

from typing import Literal

from langchain_core.runnables import RunnableConfig

from ..client.responses import TERMINAL
from ..items.output import pending_of
from ..run import run_of
from ..state import SupervisorState

End = Literal["__end__"]


def after_submit(state: SupervisorState) -> Literal["submit", "poll"] | End:
    """To ``poll``; or back to ``submit``, once a person has decided about an unknown outcome."""
    if state["job"]["ended"]:
        return _ended(state)
    return "poll" if state["job"]["response_id"] else "submit"


def after_poll(
    state: SupervisorState, config: RunnableConfig
) -> Literal["poll", "approve", "call_tools"] | End:
    """Back to ``poll`` while the job runs; then to what is pending, or to the end."""
    if state["job"]["ended"]:
        return _ended(state)
    if state["job"]["status"] not in TERMINAL:
        return "poll"
    return _to_pending(state, config)


def after_approve(
    state: SupervisorState, config: RunnableConfig
) -> Literal["approve", "call_tools", "submit", "poll"] | End:
    """Back to ``approve`` while something is undecided; then to pending function calls, or to the next round."""
    if state["job"]["ended"]:
        return _ended(state)
    if not state["job"]["response_id"]:
        return "submit"
    return _to_pending(state, config)


def after_call_tools(state: SupervisorState) -> Literal["call_tools", "submit", "poll"] | End:
    """To the next round; or back to ``call_tools``, as after a person's decision about an unknown outcome."""
    if state["job"]["ended"]:
        return _ended(state)
    return "call_tools" if state["job"]["response_id"] else "submit"


def _to_pending(state: SupervisorState, config: RunnableConfig) -> Literal["approve", "call_tools"]:
    function_names = run_of(config).settings.function_names
    pending = pending_of(state["messages"], state["job"]["response_id"], function_names)
    return "approve" if pending.approvals else "call_tools"


def _ended(state: SupervisorState) -> Literal["poll"] | End:
    """A failure is first written to the state; then ``poll`` raises it."""
    failure = state["job"].get("failure")
    return "poll" if failure and not failure.get("said") else "__end__"
