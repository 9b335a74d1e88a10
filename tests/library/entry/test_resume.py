"""An answer without an id is for what was pending before it came, and for nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from databricks_supervisor import as_tool
from tests.support.compiled_graphs import WEB
from tests.support.scripted_agent import Item, Plan, ScriptedAgent, approval, message, question, thread

YES = {"decisions": [{"type": "approve"}]}


def asks_twice(items: list[Item], number: int) -> Plan | list[Item]:
    return [approval(f"a{number}")] if number < 3 else [message("Done.")]


def graph_of(agent: ScriptedAgent, saver: Any, depth: int) -> Any:
    """The supervisor itself, or under as many parents."""
    graph: Any = agent.graph(tools=[WEB])
    for _ in range(depth):
        parent = StateGraph(MessagesState)
        parent.add_node("ask", graph.compile())
        parent.add_edge(START, "ask")
        graph = parent
    return graph.compile(checkpointer=saver)


def pending(state: Any) -> list[str]:
    return [id for interrupt in state.get("__interrupt__", []) for id in interrupt.value["ids"]]


@pytest.mark.parametrize("answer", [True, YES], ids=["bare", "in order"])
@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_resuming_with_nothing_does_not_give_the_last_answer_again(depth: int, answer: Any) -> None:
    agent = ScriptedAgent(asks_twice)
    graph = graph_of(agent, InMemorySaver(), depth)
    assert pending(await graph.ainvoke(question(), thread())) == ["a1"]
    assert pending(await graph.ainvoke(Command(resume=answer), thread())) == ["a2"]
    for _ in range(2):
        assert pending(await graph.ainvoke(None, thread())) == ["a2"]
    assert agent.jobs == 2
    assert pending(await graph.ainvoke(Command(resume=answer), thread())) == []
    assert agent.all_decisions() == [("a1", True), ("a2", True)]
    assert agent.jobs == 3


@pytest.mark.parametrize("depth", [0, 1])
async def test_it_holds_for_sync_callers_and_over_processes(depth: int, tmp_path: Path) -> None:
    agent = ScriptedAgent(asks_twice)
    file = str(tmp_path / "state.sqlite")
    results = []
    for given in (question(), Command(resume=True), None, Command(resume=YES)):
        with SqliteSaver.from_conn_string(file) as saver:
            results.append(await asyncio.to_thread(graph_of(agent, saver, depth).invoke, given, thread()))
    assert [pending(state) for state in results] == [["a1"], ["a2"], ["a2"], []]
    assert agent.jobs == 3


@pytest.mark.parametrize("depth", [0, 1])
async def test_an_answer_that_is_given_again_after_a_kill_does_not_allow_a_repeat(
    depth: int, tmp_path: Path
) -> None:
    """The follow-up's POST was under way; whoever gave the answer gives it again."""
    agent = ScriptedAgent(asks_twice)
    file = str(tmp_path / "state.sqlite")
    async with AsyncSqliteSaver.from_conn_string(file) as saver:
        graph = graph_of(agent, saver, depth)
        assert pending(await graph.ainvoke(question(), thread())) == ["a1"]
        agent.fail_create = [500]
        state = await graph.ainvoke(Command(resume=YES), thread())
        assert [i.value["kind"] for i in state["__interrupt__"]] == ["repeat_submission"]
        jobs = agent.jobs
        for given in (None, None):
            state = await graph.ainvoke(given, thread())
            assert [i.value["kind"] for i in state["__interrupt__"]] == ["repeat_submission"]
        assert agent.jobs == jobs


async def test_an_answer_that_nothing_was_waiting_for_is_dropped() -> None:
    agent = ScriptedAgent(asks_twice)
    graph = graph_of(agent, InMemorySaver(), 0)
    async for _ in graph.astream(question(), thread(), interrupt_before=["approve"]):
        pass
    assert (await graph.aget_state(thread())).next == ("approve",)
    assert pending(await graph.ainvoke(Command(resume=True), thread())) == ["a1"]
    assert agent.jobs == 1


async def test_of_two_calls_in_one_tool_node_the_answer_is_for_the_one_that_was_shown() -> None:
    agent = ScriptedAgent(
        lambda items, number: [approval(f"a{number}")] if number < 3 else [message("Done.")]
    )
    tools = ToolNode([as_tool(agent.graph(tools=[WEB]), name="sales", description="Knows the sales.")])
    builder = StateGraph(MessagesState)
    builder.add_node("tools", tools)
    builder.add_edge(START, "tools")
    graph = builder.compile(checkpointer=InMemorySaver())
    calls = [
        {
            "name": "sales",
            "args": {"question": f"Question {name}?"},
            "id": f"call_{name}",
            "type": "tool_call",
        }
        for name in ("x", "y")
    ]
    state = await graph.ainvoke({"messages": [AIMessage("", tool_calls=calls)]}, thread())
    seen: list[str] = []
    while asked := pending(state):
        assert len(asked) == 1
        seen += asked
        assert set(agent.decisions()) < set(seen)
        state = await graph.ainvoke(Command(resume=True), thread())
    assert sorted(seen) == ["a1", "a2"]
    assert [m.content for m in state["messages"][-2:]] == ["Done.", "Done."]
    assert agent.jobs == 4
