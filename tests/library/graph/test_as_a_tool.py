"""A supervisor as a tool of another agent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from databricks_supervisor import as_tool
from tests.support.compiled_graphs import WEB, parent_of
from tests.support.scripted_agent import ScriptedAgent, approval, first_asks, question, texts, thread


def calling(*questions: str) -> Any:
    """What a model would say: several calls of the supervisor at once."""
    calls = [
        {"name": "sales", "args": {"question": text}, "id": f"call_{n}"} for n, text in enumerate(questions)
    ]
    return {"messages": [AIMessage("", tool_calls=calls)]}  # type: ignore[arg-type]


@pytest.mark.parametrize("caller", ["sync", "async"])
async def test_as_a_tool_each_call_is_a_job(caller: str) -> None:
    agent = ScriptedAgent()
    tools = ToolNode([as_tool(agent.graph(), name="sales", description="Sales.")])
    graph = parent_of(("tools", tools))
    given = calling("same", "same", "other")
    if caller == "sync":
        state = await asyncio.to_thread(graph.invoke, given, thread())
    else:
        state = await graph.ainvoke(given, thread())
    assert agent.jobs == 3
    assert sorted(texts(state, "tool")) == ["Answer to: other", "Answer to: same", "Answer to: same"]


async def test_as_a_tool_an_approval_is_answered_on_the_outer_graph() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    tools = ToolNode([as_tool(agent.graph(tools=[WEB]), name="sales", description="Sales.")])
    graph = parent_of(("tools", tools))
    state = await graph.ainvoke(calling("Search."), thread())
    assert state["__interrupt__"][0].value["ids"] == ["a1"]
    state = await graph.ainvoke(Command(resume=True), thread())
    assert agent.jobs == 2
    assert texts(state, "tool") == ["a1: done"]


async def test_as_a_tool_of_a_supervisor() -> None:
    """A supervisor whose client-side function is another one."""
    inner = ScriptedAgent(first_asks(approval("a1")))
    function = as_tool(inner.graph(tools=[WEB]), name="sales", description="Sales.")
    call_it = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c1",
        "name": "sales",
        "arguments": '{"question": "Search."}',
        "status": "completed",
    }
    outer = ScriptedAgent(first_asks(call_it))
    graph = outer.graph(tools=[function]).compile(checkpointer=InMemorySaver())
    state = await graph.ainvoke(question(), thread())
    assert state["__interrupt__"][0].value["ids"] == ["a1"]
    assert (outer.jobs, inner.jobs) == (1, 1)
    state = await graph.ainvoke(Command(resume=True), thread())
    assert (outer.jobs, inner.jobs) == (2, 2)
    assert outer.outputs() == {"c1": "a1: done"}
    assert texts(state)[-1] == "c1: a1: done"
