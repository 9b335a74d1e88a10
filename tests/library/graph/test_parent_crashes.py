"""A parent graph that crashed, was cut off or is retried finds the jobs that it had."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import RetryPolicy

from databricks_supervisor.errors import PermissionDeniedError
from tests.support.compiled_graphs import ANSWERED, Crash, cancel, crash_once, parent_of
from tests.support.scripted_agent import Plan, ScriptedAgent, answer, question, texts, thread, until


async def test_a_crash_beside_it_does_not_submit_again() -> None:
    agent = ScriptedAgent(lambda items, number: Plan(answer(items, number), polls=5))
    crashed: list[bool] = []

    async def sibling(state: Any) -> dict[str, Any]:
        await until(lambda: agent.polled)
        crash_once(crashed)
        return {}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", agent.graph().compile())
    graph.add_node("sibling", sibling)
    graph.add_edge(START, "ask")
    graph.add_edge(START, "sibling")
    compiled = graph.compile(checkpointer=InMemorySaver())
    with pytest.raises(Crash):
        await compiled.ainvoke(question(), thread())
    state = await compiled.ainvoke(None, thread())
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


@pytest.mark.parametrize("resumed_with", ["None", "the input"])
async def test_a_crash_after_it_does_not_submit_again(resumed_with: str) -> None:
    """With its input again, the parent asks anew: its step is another one (documented as ambiguous)."""
    agent = ScriptedAgent()
    crashed: list[bool] = []

    def after(state: Any) -> dict[str, Any]:
        crash_once(crashed)
        return {}

    graph = parent_of(("ask", agent.graph().compile()), ("after", after))
    with pytest.raises(Crash):
        await graph.ainvoke(question(), thread())
    if resumed_with == "None":
        assert texts(await graph.ainvoke(None, thread())) == ANSWERED
        assert agent.jobs == 1
    else:
        assert texts(await graph.ainvoke(question(), thread())) == ANSWERED * 2
        assert agent.jobs == 2


async def test_a_node_function_that_fails_after_it_gets_the_same_end_when_it_runs_again() -> None:
    agent = ScriptedAgent()
    supervisor = agent.graph().compile()
    crashed: list[bool] = []

    async def ask(state: Any) -> dict[str, Any]:
        result = await supervisor.ainvoke({"messages": state["messages"]})
        crash_once(crashed)
        return {"messages": result["messages"]}

    graph = parent_of(("ask", ask))
    with pytest.raises(Crash):
        await graph.ainvoke(question(), thread())
    state = await graph.ainvoke(None, thread())
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


@pytest.mark.parametrize("when", ["before the answer", "after the answer"])
async def test_a_retry_of_the_parent_s_node_is_the_same_job(when: str) -> None:
    agent = ScriptedAgent()
    supervisor = agent.graph().compile()
    crashed: list[bool] = []

    async def ask(state: Any) -> dict[str, Any]:
        running = asyncio.create_task(supervisor.ainvoke({"messages": state["messages"]}))
        if when == "before the answer" and not crashed:
            await until(lambda: agent.jobs)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            crash_once(crashed)
        result = await running
        crash_once(crashed)
        return {"messages": result["messages"]}

    graph = parent_of(
        ("ask", ask), retry_policy=RetryPolicy(initial_interval=0.001, jitter=False, retry_on=Crash)
    )
    state = await graph.ainvoke(question(), thread())
    assert crashed == [True]
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


async def test_a_retry_of_a_supervisor_as_a_node_is_the_same_job() -> None:
    agent = ScriptedAgent()
    reads: list[str] = []
    handle = agent.handle

    def away(method: str, path: str, body: Any, headers: Any) -> Any:
        if method == "GET" and len(reads) < 3:
            reads.append(path)
            return 403, {"error": {"message": "not now"}}
        return handle(method, path, body, headers)

    agent.handle = away  # type: ignore[method-assign]
    policy = RetryPolicy(initial_interval=0.001, jitter=False, max_attempts=5, retry_on=PermissionDeniedError)
    graph = parent_of(("ask", agent.graph().compile()), retry_policy=policy)
    state = await graph.ainvoke(question(), thread())
    assert len(reads) == 3
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


async def test_a_parent_whose_state_was_lost_gets_the_recorded_end_in_the_same_step() -> None:
    """Under ``async`` durability a kill loses the parent's latest checkpoint; the ledger has the end."""
    agent = ScriptedAgent()
    saver = InMemorySaver()
    graph = parent_of(("ask", agent.graph().compile()), saver=saver)
    assert texts(await graph.ainvoke(question(), thread())) == ANSWERED
    saver.storage.clear()
    saver.writes.clear()
    saver.blobs.clear()
    assert texts(await graph.ainvoke(question(), thread())) == ANSWERED
    assert agent.jobs == 1


async def test_a_parent_that_was_cut_off_mid_poll_goes_on_with_the_same_job() -> None:
    agent = ScriptedAgent(lambda items, number: Plan(answer(items, number), held=True))
    graph = parent_of(("ask", agent.graph().compile()))
    for given in (question(), None, None):
        polled = agent.polled
        run = asyncio.create_task(graph.ainvoke(given, thread()))
        await until(lambda polled=polled: agent.polled > polled + 1)
        await cancel(run)
    assert agent.jobs == 1
    agent.release()
    state = await graph.ainvoke(None, thread())
    assert texts(state)[-1] == "Answer to: How much?"
    assert agent.jobs == 1


async def test_a_parent_that_is_asked_again_mid_poll_goes_on_with_the_same_job() -> None:
    agent = ScriptedAgent(lambda items, number: Plan(answer(items, number), held=True))
    graph = parent_of(("ask", agent.graph().compile()))
    run = asyncio.create_task(graph.ainvoke(question(), thread()))
    await until(lambda: agent.polled)
    await cancel(run)
    agent.release()
    state = await graph.ainvoke(question(), thread())
    assert texts(state)[-1] == "Answer to: How much?"
    assert agent.jobs == 1
