"""Several questions from one function, from a task and from an entrypoint; each is one job."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.types import Command

from tests.support.compiled_graphs import WEB, Crash, crash_once, parent_of
from tests.support.scripted_agent import ScriptedAgent, approval, asked, first_asks, question, texts, thread

# ---- several from one function


async def test_questions_one_after_the_other_from_one_function() -> None:
    agent = ScriptedAgent()
    supervisor = agent.graph().compile()
    crashed: list[bool] = []

    async def ask(state: Any) -> dict[str, Any]:
        said = []
        for text in ("same", "same", "other"):
            said.append(texts(await supervisor.ainvoke(question(text)))[-1])
        crash_once(crashed)
        return {"messages": [AIMessage(", ".join(said))]}

    graph = parent_of(("ask", ask))
    with pytest.raises(Crash):
        await graph.ainvoke(question(), thread())
    state = await graph.ainvoke(None, thread())
    assert agent.jobs == 3
    assert texts(state)[-1] == "Answer to: same, Answer to: same, Answer to: other"


@pytest.mark.parametrize("texts_", [["same", "same", "same"], ["a", "b", "c"]])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_questions_at_once_from_one_function(texts_: list[str], kind: str, tmp_path: Path) -> None:
    if kind == "memory":
        await ask_at_once(texts_, InMemorySaver())
    else:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
            await ask_at_once(texts_, saver)


async def ask_at_once(texts_: list[str], saver: Any) -> None:
    agent = ScriptedAgent()
    supervisor = agent.graph().compile()

    async def ask(state: Any) -> dict[str, Any]:
        results = await asyncio.gather(*(supervisor.ainvoke(question(text)) for text in texts_))
        crash_once(crashed)
        return {"messages": [AIMessage(", ".join(texts(result)[-1] for result in results))]}

    crashed: list[bool] = []
    graph = parent_of(("ask", ask), saver=saver)
    with pytest.raises(Crash):
        await graph.ainvoke(question(), thread())
    state = await graph.ainvoke(None, thread())
    assert agent.jobs == 3
    assert texts(state)[-1] == ", ".join(f"Answer to: {text}" for text in texts_)
    await (await supervisor.parts.ledgers.resolve(saver)).aclose()


async def test_an_interrupt_in_a_function_that_asks_twice() -> None:
    agent = ScriptedAgent(lambda items, number: first_asks(approval(f"ask_{asked(items)}"))(items, number))
    supervisor = agent.graph(tools=[WEB]).compile()

    async def ask(state: Any) -> dict[str, Any]:
        said = [texts(await supervisor.ainvoke(question(text)))[-1] for text in ("a", "b")]
        return {"messages": [AIMessage(", ".join(said))]}

    graph = parent_of(("ask", ask))
    state = await graph.ainvoke(question(), thread())
    assert state["__interrupt__"][0].value["ids"] == ["ask_a"]
    state = await graph.ainvoke(Command(resume={"ask_a": True}), thread())
    assert state["__interrupt__"][0].value["ids"] == ["ask_b"]
    state = await graph.ainvoke(Command(resume={"ask_b": False}), thread())
    assert agent.jobs == 4
    assert texts(state)[-1] == "ask_a: done, ask_b: refused ()"


# ---- functional API


async def test_from_a_task_of_an_entrypoint() -> None:
    agent = ScriptedAgent()
    supervisor = agent.graph().compile()
    crashed: list[bool] = []

    @task
    async def ask(text: str) -> str:
        return texts(await supervisor.ainvoke(question(text)))[-1]

    @entrypoint(checkpointer=InMemorySaver())
    async def workflow(given: list[str]) -> list[str]:
        said = list(await asyncio.gather(*(ask(text) for text in given)))
        crash_once(crashed)
        return said

    with pytest.raises(Crash):
        await workflow.ainvoke(["a", "b", "same", "same"], thread())
    assert agent.jobs == 4
    said = await workflow.ainvoke(None, thread())
    assert said == [f"Answer to: {text}" for text in ("a", "b", "same", "same")]
    assert agent.jobs == 4
    await workflow.ainvoke(["a", "b", "same", "same"], thread())
    assert agent.jobs == 8


async def test_from_an_entrypoint_itself_with_an_approval() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    supervisor = agent.graph(tools=[WEB]).compile()

    @entrypoint(checkpointer=InMemorySaver())
    async def workflow(text: str) -> str:
        return texts(await supervisor.ainvoke(question(text)))[-1]

    stopped = await workflow.ainvoke("Search.", thread())
    assert stopped["__interrupt__"][0].value["ids"] == ["a1"]
    assert await workflow.ainvoke(Command(resume=True), thread()) == "a1: done"
    assert agent.jobs == 2
