"""A supervisor as a node of another graph, or called by one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from databricks_supervisor.errors import ConfigurationError
from tests.support.compiled_graphs import ANSWERED, WEB, parent_of
from tests.support.scripted_agent import ScriptedAgent, answer, approval, first_asks, question, texts, thread


@pytest.mark.parametrize("caller", ["sync", "async"])
async def test_a_node_shares_the_parent_s_messages(caller: str) -> None:
    agent = ScriptedAgent()
    graph = parent_of(("ask", agent.graph().compile()))
    for n in (1, 2):
        if caller == "sync":
            state = await asyncio.to_thread(graph.invoke, question(), thread())
        else:
            state = await graph.ainvoke(question(), thread())
        assert agent.jobs == n
        assert texts(state) == ANSWERED * n
    assert set(state) == {"messages"}
    assert len(agent.inputs[-1]) == 3


async def test_a_parent_without_messages_is_told_so() -> None:
    class Other(TypedDict):
        topic: str

    agent = ScriptedAgent()
    graph = parent_of(("ask", agent.graph().compile()), state=Other)
    with pytest.raises(Exception, match="no messages"):
        await graph.ainvoke({"topic": "cats"}, thread())
    assert agent.jobs == 0


async def test_a_parent_of_another_shape_calls_it_from_a_function() -> None:
    class Report(TypedDict):
        topic: str
        report: str

    agent = ScriptedAgent()
    supervisor = agent.graph().compile()

    async def write(state: Report) -> dict[str, str]:
        result = await supervisor.ainvoke(question(f"Tell me of {state['topic']}"))
        return {"report": texts(result)[-1]}

    graph = parent_of(("write", write), state=Report)
    state = await graph.ainvoke({"topic": "cats"}, thread())
    assert state["report"] == "Answer to: Tell me of cats"
    state = await graph.ainvoke({"topic": "cats"}, thread())
    assert agent.jobs == 2


async def test_a_sync_function_of_a_parent_may_call_it() -> None:
    agent = ScriptedAgent()
    supervisor = agent.graph().compile()

    def ask(state: Any, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": supervisor.invoke({"messages": state["messages"]}, config)["messages"]}

    graph = parent_of(("ask", ask))
    assert texts(await asyncio.to_thread(graph.invoke, question(), thread("a"))) == ANSWERED
    assert texts(await graph.ainvoke(question(), thread("b"))) == ANSWERED
    assert agent.jobs == 2


async def test_two_supervisors_of_one_parent_each_have_their_job() -> None:
    sales, legal = ScriptedAgent(), ScriptedAgent()

    def ask_legal(state: Any) -> dict[str, Any]:
        return {"messages": [HumanMessage("How much?")]}

    graph = parent_of(
        ("sales", sales.graph().compile()), ("ask", ask_legal), ("legal", legal.graph().compile())
    )
    for n in (1, 2):
        state = await graph.ainvoke(question(), thread())
        assert (sales.jobs, legal.jobs) == (n, n)
        assert texts(state) == ANSWERED * 2 * n


async def test_a_supervisor_after_another_is_asked_what_that_one_was_asked() -> None:
    first, second = ScriptedAgent(), ScriptedAgent()
    graph = parent_of(("first", first.graph().compile()), ("second", second.graph().compile()))
    await graph.ainvoke(question(), thread())
    assert (first.jobs, second.jobs) == (1, 1)
    assert second.questions == ["How much?"]
    assert [item["role"] for item in second.inputs[0]] == ["user", "assistant"]


async def test_two_levels_down_it_is_the_same() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    inner = StateGraph(MessagesState)
    inner.add_node("ask", agent.graph(tools=[WEB]).compile())
    inner.add_edge(START, "ask")
    graph = parent_of(("team", inner.compile()))
    state = await graph.ainvoke(question(), thread())
    assert state["__interrupt__"][0].value["ids"] == ["a1"]
    state = await graph.ainvoke(Command(resume=True), thread())
    assert agent.jobs == 2
    assert texts(state)[-1] == "a1: done"
    agent.script = answer
    await graph.ainvoke(question(), thread())
    assert agent.jobs == 3


async def test_without_any_checkpointer_a_parent_runs_it_too() -> None:
    agent = ScriptedAgent()
    graph = StateGraph(MessagesState)
    graph.add_node("ask", agent.graph().compile())
    graph.add_edge(START, "ask")
    compiled = graph.compile()
    assert [texts(await compiled.ainvoke(question(), thread())) for _ in range(2)] == [ANSWERED] * 2
    assert agent.jobs == 2
    graph = StateGraph(MessagesState)
    graph.add_node("ask", agent.graph(tools=[WEB]).compile())
    graph.add_edge(START, "ask")
    with pytest.raises(ConfigurationError, match="checkpointer"):
        await graph.compile().ainvoke(question(), thread())


async def test_a_node_that_runs_again_in_a_loop_is_a_new_job_each_time() -> None:
    agent = ScriptedAgent()
    graph = StateGraph(MessagesState)
    graph.add_node("ask", agent.graph().compile())
    graph.add_node("again", lambda state: {"messages": [HumanMessage("How much?")]})
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", lambda s: "again" if len(s["messages"]) < 6 else END, ["again", END])
    graph.add_edge("again", "ask")
    state = await graph.compile(checkpointer=InMemorySaver()).ainvoke(question(), thread())
    assert texts(state) == ANSWERED * 3
    assert agent.jobs == 3


async def test_progress_is_streamed_through_the_parent() -> None:
    agent = ScriptedAgent()
    graph = parent_of(("ask", agent.graph().compile()))
    events = [
        event
        async for _, event in graph.astream(question(), thread(), stream_mode="custom", subgraphs=True)
        if event["type"] == "supervisor.progress"
    ]
    assert events
    assert events[-1]["status"] == "completed"
