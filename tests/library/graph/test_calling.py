"""Every way to call a compiled supervisor, what a caller may give, and what it gets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, RemoveMessage
from langgraph.graph import END
from langgraph.types import Command

from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import InvalidInputError
from tests.support.compiled_graphs import ANSWERED, WEB, supervisor
from tests.support.scripted_agent import ScriptedAgent, approval, first_asks, question, texts, thread

# ---- every way to call it


async def by_astream(graph: CompiledSupervisorGraph) -> Any:
    return [chunk async for chunk in graph.astream(question(), thread(), stream_mode="values")][-1]


async def by_stream_in_a_thread(graph: CompiledSupervisorGraph) -> Any:
    return await asyncio.to_thread(lambda: list(graph.stream(question(), thread(), stream_mode="values"))[-1])


async def by_invoke_where_a_loop_runs(graph: CompiledSupervisorGraph) -> Any:
    return graph.invoke(question(), thread())


async def by_events(graph: CompiledSupervisorGraph) -> Any:
    events = [event async for event in graph.astream_events(question(), thread(), version="v2")]
    return events[-1]["data"]["output"]


async def by_a_copy(graph: CompiledSupervisorGraph) -> Any:
    copy = graph.with_config(tags=["mine"], **thread())
    assert isinstance(copy, CompiledSupervisorGraph)
    return await copy.ainvoke(question())


async def by_abatch(graph: CompiledSupervisorGraph) -> Any:
    return (await graph.abatch([question()], [thread()]))[0]


WAYS = [
    by_astream,
    by_stream_in_a_thread,
    by_invoke_where_a_loop_runs,
    by_events,
    by_a_copy,
    by_abatch,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.removeprefix("by_"))
async def test_every_way_of_calling_submits_once_and_gives_the_answer(way: Any) -> None:
    agent = ScriptedAgent()
    state = await way(supervisor(agent))
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


async def test_what_a_caller_gets_is_the_messages_alone() -> None:
    graph = supervisor(ScriptedAgent())
    assert set(await graph.ainvoke(question(), thread("a"))) == {"messages"}
    assert set(await asyncio.to_thread(graph.invoke, question(), thread("b"))) == {"messages"}


async def test_a_batch_is_a_job_for_each_thread() -> None:
    agent = ScriptedAgent()
    configs = [thread(str(n)) for n in range(5)]
    states = await supervisor(agent).abatch([question()] * 5, configs)
    assert agent.jobs == 5
    assert [texts(state) for state in states] == [ANSWERED] * 5


@pytest.mark.parametrize(
    "messages",
    [
        "How much?",
        ["How much?"],
        [("user", "How much?")],
        [HumanMessage("How much?")],
        HumanMessage("How much?"),
        ("How much?",),
        [{"role": "user", "content": [{"type": "text", "text": "How much?"}]}],
    ],
)
async def test_messages_may_be_given_in_every_notation(messages: Any) -> None:
    agent = ScriptedAgent()
    state = await supervisor(agent).ainvoke({"messages": messages}, thread())
    assert texts(state) == ANSWERED


async def test_the_caller_s_messages_and_input_are_left_as_they_are() -> None:
    given = {"messages": [{"role": "user", "content": "How much?"}]}
    await supervisor(ScriptedAgent()).ainvoke(given, thread())
    assert given == {"messages": [{"role": "user", "content": "How much?"}]}


async def test_without_a_thread_and_a_checkpointer_every_run_is_a_job() -> None:
    agent = ScriptedAgent()
    graph = agent.graph().compile()
    states = [await graph.ainvoke(question()) for _ in range(2)]
    assert [texts(state) for state in states] == [ANSWERED] * 2
    assert agent.jobs == 2


# ---- what is no question


@pytest.mark.parametrize(
    "input",
    [
        {},
        {"messages": []},
        {"messages": None},
        {"question": "How much?"},
        "How much?",
        7,
        [],
        {"messages": 7},
        {"messages": [7]},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [RemoveMessage(id="x")]},
    ],
    ids=repr,
)
async def test_what_is_no_question_is_refused_and_nothing_changes(input: Any) -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    with pytest.raises(InvalidInputError, match="Nothing was submitted"):
        await graph.ainvoke(input, thread())
    assert agent.jobs == 0
    assert (await graph.aget_state(thread())).created_at is None
    assert texts(await graph.ainvoke(question(), thread())) == ANSWERED


@pytest.mark.parametrize("turn_id", ["", 7, ["x"]])
async def test_a_turn_id_that_is_none_is_refused(turn_id: Any) -> None:
    agent = ScriptedAgent()
    with pytest.raises(InvalidInputError, match="turn_id"):
        await supervisor(agent).ainvoke({**question(), "turn_id": turn_id}, thread())
    assert agent.jobs == 0


async def test_a_caller_cannot_slip_in_a_job() -> None:
    agent = ScriptedAgent()
    given = {**question(), "job": {"turn_id": "x", "response_id": "resp_stolen", "status": "completed"}}
    state = await supervisor(agent).ainvoke(given, thread())
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


# ---- schemas and the drawing


def test_the_schemas_render_for_studio() -> None:
    graph = supervisor(ScriptedAgent(), tools=[WEB])
    given = graph.get_input_jsonschema()
    assert set(given["properties"]) == {"messages", "turn_id", "tools"}
    assert given["required"] == ["messages"]
    assert set(graph.get_output_jsonschema()["properties"]) == {"messages"}
    context = graph.get_context_jsonschema()
    assert context is not None
    assert "model" in context["properties"]
    with pytest.warns(DeprecationWarning, match="get_context_jsonschema"):  # the name before LangGraph 1.0
        config = graph.get_config_jsonschema()
    json.dumps([given, context, config])
    nodes = {name for name in graph.get_graph().nodes if not name.startswith("__")}
    assert nodes == {"submit", "poll", "approve", "call_tools"}
    assert "submit" in graph.get_graph().draw_mermaid()


async def test_the_state_is_json_beside_its_messages() -> None:
    agent = ScriptedAgent(first_asks(approval("a1"), approval("a2")))
    graph = supervisor(agent, tools=[WEB])
    await graph.ainvoke(question(), thread())
    await graph.ainvoke(Command(resume={"a1": True}), thread())
    job = (await graph.aget_state(thread())).values["job"]
    assert json.loads(json.dumps(job)) == job


async def test_the_edges_are_the_picture() -> None:
    drawn = supervisor(ScriptedAgent()).get_graph()
    edges = {(edge.source, edge.target) for edge in drawn.edges}
    assert ("__start__", "submit") in edges
    assert ("submit", "poll") in edges
    assert ("poll", "approve") in edges
    assert ("poll", "call_tools") in edges
    assert ("approve", "submit") in edges
    assert ("call_tools", "submit") in edges
    assert ("poll", END) in edges
