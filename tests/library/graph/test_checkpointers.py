"""What a supervisor asks of its checkpointer: durability, deletion, and where it needs one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from databricks_supervisor.errors import ConfigurationError
from tests.support.compiled_graphs import ANSWERED, WEB
from tests.support.scripted_agent import ScriptedAgent, question, texts, thread

# ---- deleting a thread


@pytest.mark.parametrize("caller", ["sync", "async"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_deleted_thread_starts_anew(caller: str, kind: str, tmp_path: Path) -> None:
    agent = ScriptedAgent()

    async def use(saver: Any) -> None:
        graph = agent.graph().compile(checkpointer=saver)
        for _ in range(2):
            if caller == "sync":
                await asyncio.to_thread(graph.invoke, question(), thread())
                await asyncio.to_thread(graph.delete_thread, "t")
            else:
                await graph.ainvoke(question(), thread())
                await graph.adelete_thread("t")
            ledger = await graph.parts.ledgers.resolve(saver)
            assert await ledger.latest_turn("t", "") is None
        state = await asyncio.to_thread(graph.invoke, question(), thread())
        assert texts(state) == ANSWERED
        await ledger.aclose()

    if kind == "memory":
        await use(InMemorySaver())
    elif caller == "sync":
        with SqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
            await use(saver)
    else:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as asaver:
            await use(asaver)
    assert agent.jobs == 3


async def test_a_graph_without_a_checkpointer_has_no_thread_to_delete() -> None:
    graph = ScriptedAgent().graph().compile()
    with pytest.raises(ConfigurationError, match="no checkpointer"):
        await graph.adelete_thread("t")
    with pytest.raises(ConfigurationError, match="no checkpointer"):
        graph.delete_thread("t")


# ---- durability


class Counting(InMemorySaver):
    """Counts the checkpoints that were written before the job was submitted."""

    def __init__(self, agent: ScriptedAgent) -> None:
        super().__init__()
        self.agent = agent
        self.before = 0

    async def aput(self, *args: Any) -> Any:
        await asyncio.sleep(0.02)
        return await super().aput(*args)

    def put(self, *args: Any) -> Any:
        self.before += self.agent.jobs == 0
        return super().put(*args)


@pytest.mark.parametrize("given", ["async", "exit", "sync", None])
@pytest.mark.parametrize("caller", ["sync", "async"])
async def test_checkpoints_are_written_before_the_next_step_whatever_the_caller_says(
    given: Any, caller: str
) -> None:
    agent = ScriptedAgent()
    saver = Counting(agent)
    graph = agent.graph().compile(checkpointer=saver)
    if caller == "async":
        await graph.ainvoke(question(), thread(), durability=given)
    else:
        await asyncio.to_thread(graph.invoke, question(), thread(), durability=given)
    assert saver.before == 2  # the input, and the step before submit


async def test_inherit_leaves_durability_to_the_caller() -> None:
    agent = ScriptedAgent()
    saver = Counting(agent)
    graph = agent.graph().compile(checkpointer=saver, durability="inherit")
    await graph.ainvoke(question(), thread(), durability="exit")
    assert saver.before == 0
    assert len([s async for s in graph.aget_state_history(thread())]) == 1


async def test_a_durability_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="durability"):
        ScriptedAgent().graph().compile(durability="exit")  # type: ignore[arg-type]


async def test_a_caller_s_durability_without_a_checkpointer_is_no_error() -> None:
    assert texts(await ScriptedAgent().graph().compile().ainvoke(question(), durability="sync")) == ANSWERED


# ---- runs that could not be safe


async def test_a_run_that_may_need_an_approval_needs_a_checkpointer() -> None:
    agent = ScriptedAgent()
    with pytest.raises(ConfigurationError, match="checkpointer"):
        await agent.graph(tools=[WEB]).compile().ainvoke(question(), thread())
    with pytest.raises(ConfigurationError, match="checkpointer"):
        agent.graph(tools=[WEB]).compile().invoke(question(), thread())
    assert agent.jobs == 0
    state = await agent.graph(tools=[WEB], require_approval="never").compile().ainvoke(question())
    assert texts(state) == ANSWERED


@pytest.mark.parametrize("checkpointer", [True, False])
async def test_a_subgraph_that_does_not_inherit_the_checkpointer_is_refused(checkpointer: bool) -> None:
    agent = ScriptedAgent()
    parent = StateGraph(MessagesState)
    parent.add_node("ask", agent.graph().compile(checkpointer=checkpointer))
    parent.add_edge(START, "ask")
    with pytest.raises(ConfigurationError, match="checkpointer=None"):
        await parent.compile(checkpointer=InMemorySaver()).ainvoke(question(), thread())
    assert agent.jobs == 0
