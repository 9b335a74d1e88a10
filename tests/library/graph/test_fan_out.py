"""Supervisors under ``Send``: each branch is a job of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from tests.support.compiled_graphs import WEB, cancel, fan_out
from tests.support.scripted_agent import (
    Item,
    Plan,
    ScriptedAgent,
    answer,
    approval,
    asked,
    first_asks,
    message,
    question,
    texts,
    thread,
    until,
)

# ---- under Send


@pytest.mark.parametrize("caller", ["sync", "async"])
async def test_twenty_identical_sends_are_twenty_jobs_and_twenty_new_ones_in_the_next_turn(
    caller: str,
) -> None:
    agent = ScriptedAgent(lambda items, number: [message(f"Answer {number}")])
    graph = fan_out(agent.graph().compile())
    topics = question(",".join(["same"] * 20))
    for n in (1, 2):
        if caller == "sync":
            state = await asyncio.to_thread(graph.invoke, topics, thread())
        else:
            state = await graph.ainvoke(topics, thread())
        assert agent.jobs == 20 * n
    assert sorted(t for t in texts(state, "ai")) == sorted(f"Answer {n}" for n in range(1, 41))


async def test_branches_ask_for_approvals_and_are_answered_in_any_order() -> None:
    def script(items: list[Item], number: int) -> list[Item]:
        return first_asks(approval(f"ask_{asked(items)}"))(items, number)  # type: ignore[return-value]

    agent = ScriptedAgent(script)
    graph = fan_out(agent.graph(tools=[WEB]).compile())
    names = ["a", "b", "c", "d"]
    state = await graph.ainvoke(question(",".join(names)), thread())
    waiting = {i.value["ids"][0]: i.id for i in state["__interrupt__"]}
    assert sorted(waiting) == [f"ask_{name}" for name in names]
    assert agent.jobs == 4
    await graph.ainvoke(Command(resume={waiting["ask_d"]: False, waiting["ask_b"]: True}), thread())
    assert agent.jobs == 6
    bad = await graph.ainvoke(Command(resume={waiting["ask_a"]: "maybe"}), thread())
    said = {i.value["ids"][0]: i.value.get("error") for i in bad["__interrupt__"]}
    assert "Nothing was approved" in str(said["ask_a"])
    assert said["ask_c"] is None
    rest = {i.id: i.value["ids"][0] == "ask_c" for i in bad["__interrupt__"]}
    state = await graph.ainvoke(Command(resume=rest), thread())
    assert agent.jobs == 8
    verdicts = {id: yes for n in range(4, 8) for id, yes in agent.decisions(n).items()}
    assert verdicts == {"ask_a": False, "ask_b": True, "ask_c": True, "ask_d": False}
    assert "__interrupt__" not in state
    assert set(texts(state, "ai")) >= {"ask_b: done", "ask_c: done", "ask_a: refused ()", "ask_d: refused ()"}


def teams(agent: ScriptedAgent, **settings: Any) -> Any:
    """A fan-out to a subgraph that has the supervisor as a node: the Send is two levels up."""
    inner = StateGraph(MessagesState)
    inner.add_node("ask", agent.graph(**settings).compile())
    inner.add_edge(START, "ask")
    return fan_out(inner.compile())


@pytest.mark.parametrize("names", ["same,same,same,same", "a,b,c,d"])
async def test_branches_further_up_are_told_apart(names: str) -> None:
    agent = ScriptedAgent(lambda items, number: [message(f"Answer {number} to {asked(items)}")])
    graph = teams(agent)
    for n in (1, 2):
        state = await graph.ainvoke(question(names), thread())
        assert agent.jobs == 4 * n
    said = sorted(text.split(" to ")[1] for text in texts(state, "ai"))
    assert said == sorted(names.split(",") * 2)


async def test_branches_further_up_that_were_cut_off_go_on_with_their_jobs() -> None:
    agent = ScriptedAgent(lambda items, number: Plan([message(f"Answer {number}")], held=True))
    graph = teams(agent)
    run = asyncio.create_task(graph.ainvoke(question("same,same,same"), thread()))
    await until(lambda: agent.jobs == 3 and agent.polled > 6)
    await cancel(run)
    agent.release()
    state = await graph.ainvoke(None, thread())
    assert agent.jobs == 3
    assert sorted(texts(state, "ai")) == ["Answer 1", "Answer 2", "Answer 3"]


async def test_branches_further_up_ask_for_approvals_of_their_own() -> None:
    agent = ScriptedAgent(lambda items, number: first_asks(approval(f"ask_{asked(items)}"))(items, number))
    graph = teams(agent, tools=[WEB])
    state = await graph.ainvoke(question("a,b,c"), thread())
    answers = {i.id: i.value["ids"] == ["ask_b"] for i in state["__interrupt__"]}
    assert len(answers) == 3
    state = await graph.ainvoke(Command(resume=answers), thread())
    assert agent.jobs == 6
    verdicts = {id: yes for n in range(3, 6) for id, yes in agent.decisions(n).items()}
    assert verdicts == {"ask_a": False, "ask_b": True, "ask_c": False}


async def test_a_failed_branch_that_says_so_does_not_stop_the_others() -> None:
    def script(items: list[Item], number: int) -> Plan:
        if asked(items) == "b":
            return Plan([], "failed", error={"message": "boom"})
        return Plan(answer(items, number))

    agent = ScriptedAgent(script)
    graph = fan_out(agent.graph(on_failure="message").compile())
    state = await graph.ainvoke(question("a,b,c"), thread())
    said = texts(state, "ai")
    assert {"Answer to: a", "Answer to: c"} <= set(said)
    assert any("boom" in text for text in said)
    assert agent.jobs == 3


async def test_a_failed_branch_that_raises_leaves_the_others_jobs_to_the_resume() -> None:
    """Whatever the siblings had done when it failed, nobody submits again."""

    def script(items: list[Item], number: int) -> Plan:
        if asked(items) == "b":
            return Plan([], "failed", error={"message": "boom"}, polls=3)
        return Plan(answer(items, number), polls=6)

    agent = ScriptedAgent(script)
    graph = fan_out(agent.graph().compile())
    for _ in range(2):
        with pytest.raises(Exception, match="boom"):
            await graph.ainvoke(question("a,b,c") if not agent.jobs else None, thread())
    assert agent.jobs == 3


# ---- a parent that crashed


async def test_a_fan_out_that_was_cut_off_goes_on_with_the_same_jobs() -> None:
    agent = ScriptedAgent(lambda items, number: Plan([message(f"Answer {number}")], held=number % 2 == 0))
    graph = fan_out(agent.graph().compile())
    run = asyncio.create_task(graph.ainvoke(question(",".join(["same"] * 10)), thread()))
    await until(lambda: agent.jobs == 10 and agent.polled > 30)
    await cancel(run)
    agent.release()
    state = await graph.ainvoke(None, thread())
    assert agent.jobs == 10
    assert sorted(texts(state, "ai")) == sorted(f"Answer {n}" for n in range(1, 11))
