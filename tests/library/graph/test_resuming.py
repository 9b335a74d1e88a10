"""A thread is resumed: from where it stands, after a cut, and from an older checkpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from databricks_supervisor.errors import ForeignThreadError, InvalidAnswerError, NothingToResumeError
from tests.support.compiled_graphs import ANSWERED, WEB, cancel, supervisor
from tests.support.scripted_agent import (
    Plan,
    ScriptedAgent,
    answer,
    approval,
    first_asks,
    question,
    texts,
    thread,
    until,
)

# ---- resuming


async def test_nothing_to_resume_says_to_ask_again() -> None:
    graph = supervisor(ScriptedAgent())
    for given in (None, Command(resume=True), Command(resume={"a": True})):
        with pytest.raises(NothingToResumeError, match="Ask the question again"):
            await graph.ainvoke(given, thread())


async def test_resuming_with_nothing_is_no_answer() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    graph = supervisor(agent, tools=[WEB])
    await graph.ainvoke(question(), thread())
    with pytest.raises(InvalidAnswerError, match="no answer"):
        await graph.ainvoke(Command(resume=None), thread())
    assert agent.jobs == 1
    await graph.ainvoke(Command(resume=True), thread())
    assert agent.decisions() == {"a1": True}


async def test_resuming_a_thread_that_has_ended_changes_nothing() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await graph.ainvoke(question(), thread())
    for given in (None, Command(resume=True)):
        assert texts(await graph.ainvoke(given, thread())) == ANSWERED
    assert agent.jobs == 1


@pytest.mark.parametrize("given", ["None", "the question"])
async def test_a_run_that_was_cut_off_goes_on_with_its_job(given: str, tmp_path: Path) -> None:
    path = str(tmp_path / "c.sqlite")
    agent = ScriptedAgent(lambda items, number: Plan(answer(items, number), held=True))
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        run = asyncio.create_task(agent.graph().compile(checkpointer=saver).ainvoke(question(), thread()))
        await until(lambda: agent.polled > 1)
        await cancel(run)
    agent.release()
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        graph = agent.graph().compile(checkpointer=saver)
        state = await graph.ainvoke(None if given == "None" else question(), thread())
        await (await graph.parts.ledgers.resolve(saver)).aclose()
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


async def test_a_thread_of_another_graph_is_refused() -> None:
    class Other(TypedDict):
        value: int

    saver = InMemorySaver()
    other = StateGraph(Other)
    other.add_node("node", lambda state: {"value": 2})
    other.add_edge(START, "node")
    await other.compile(checkpointer=saver).ainvoke({"value": 1}, thread())
    agent = ScriptedAgent()
    graph = agent.graph().compile(checkpointer=saver)
    for given in (question(), None, Command(resume=True)):
        with pytest.raises(ForeignThreadError, match="another graph"):
            await graph.ainvoke(given, thread())
    assert agent.jobs == 0
    assert texts(await graph.ainvoke(question(), thread("mine"))) == ANSWERED


# ---- time travel


async def test_a_question_from_an_older_checkpoint_is_a_new_job_on_that_history() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await graph.ainvoke(question("One"), thread())
    first = await graph.aget_state(thread())
    await graph.ainvoke(question("Two"), thread())
    state = await graph.ainvoke(question("Two"), first.config)
    assert agent.jobs == 3
    assert texts(state) == ["One", "Answer to: One", "Two", "Answer to: Two"]
    state = await graph.ainvoke(question("Three"), first.config)
    assert texts(state) == ["One", "Answer to: One", "Three", "Answer to: Three"]
    state = await graph.ainvoke(question("Four"), thread())
    assert texts(state)[-4:] == ["Three", "Answer to: Three", "Four", "Answer to: Four"]


async def test_replaying_an_older_checkpoint_reads_the_same_job() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await graph.ainvoke(question(), thread())
    before = [s async for s in graph.aget_state_history(thread()) if s.next == ("submit",)]
    state = await graph.ainvoke(None, before[0].config)
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


async def test_an_edited_state_goes_on_with_the_edited_history() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await graph.ainvoke(question(), thread())
    saved = (await graph.aget_state(thread())).values["messages"]
    edited = AIMessage("An edited answer.", id=saved[-1].id)
    await graph.aupdate_state(thread(), {"messages": [edited]}, as_node="poll")
    await graph.ainvoke(question("And?"), thread())
    said = [part["text"] for item in agent.inputs[-1] for part in item["content"]]
    assert said == ["How much?", "An edited answer.", "And?"]
