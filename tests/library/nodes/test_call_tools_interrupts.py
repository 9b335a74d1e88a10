"""Client-side functions that ask a person in the middle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.tools import tool
from langgraph.types import Command, interrupt

from tests.library.nodes.client_functions import add_tool
from tests.support.compiled_graphs import supervisor
from tests.support.scripted_agent import ScriptedAgent, call, first_asks, message, question, texts, thread


def confirm_tool(ran: list[str]) -> Any:
    @tool
    async def confirm(what: str) -> str:
        """Ask a person."""
        answer = interrupt(f"{what}?")
        ran.append(f"{what}: {answer}")
        return str(answer)

    return confirm


@pytest.mark.parametrize("caller", ["sync", "async"])
async def test_an_interrupt_inside_a_function_is_answered_and_the_function_ends_once(caller: str) -> None:
    ran: list[str] = []
    agent = ScriptedAgent(first_asks(call("c1", "confirm", {"what": "pay"})))
    graph = supervisor(agent, tools=[confirm_tool(ran)])

    async def run(given: Any) -> Any:
        if caller == "sync":
            return await asyncio.to_thread(graph.invoke, given, thread())
        return await graph.ainvoke(given, thread())

    stopped = await run(question())
    assert [i.value for i in stopped["__interrupt__"]] == ["pay?"]
    assert (ran, agent.jobs) == ([], 1)
    await run(Command(resume="yes"))
    assert ran == ["pay: yes"]
    assert agent.outputs() == {"c1": "yes"}


async def test_an_answered_function_is_not_run_again_when_another_still_asks() -> None:
    ran: list[str] = []
    both = [call("c1", "confirm", {"what": "pay"}), call("c2", "confirm", {"what": "ship"})]
    agent = ScriptedAgent(first_asks(*both))
    graph = supervisor(agent, tools=[confirm_tool(ran)])
    state = await graph.ainvoke(question(), thread())
    answers = {"pay?": "pay yes", "ship?": "ship no"}
    for _ in range(2):
        asked = state["__interrupt__"][0].value
        state = await graph.ainvoke(Command(resume=answers[asked]), thread())
    assert sorted(ran) == ["pay: pay yes", "ship: ship no"]
    assert agent.outputs() == {"c1": "pay yes", "c2": "ship no"}
    assert agent.jobs == 2


async def test_a_function_that_asks_beside_one_that_does_not_gets_its_own_answer() -> None:
    ran: list[str] = []
    added: list[Any] = []
    both = [call("c1", "add", {"a": 1, "b": 2}), call("c2", "confirm", {"what": "ship"})]
    agent = ScriptedAgent(first_asks(*both))
    graph = supervisor(agent, tools=[confirm_tool(ran), add_tool(added)])
    await graph.ainvoke(question(), thread())
    await graph.ainvoke(Command(resume="yes"), thread())
    assert added == [(1, 2)]
    assert ran == ["ship: yes"]
    assert agent.outputs() == {"c1": "3", "c2": "yes"}


async def test_three_functions_that_ask_twice_each_get_their_own_answers() -> None:
    @tool
    async def form(name: str) -> str:
        """Ask twice."""
        first = interrupt(f"{name} first?")
        second = interrupt(f"{name} second?")
        return f"{first}, {second}"

    agent = ScriptedAgent(first_asks(*(call(f"c{n}", "form", {"name": f"n{n}"}) for n in range(3))))
    graph = supervisor(agent, tools=[form])
    state = await graph.ainvoke(question(), thread())
    for _ in range(6):
        asked = state["__interrupt__"][0].value
        state = await graph.ainvoke(Command(resume=f"re {asked}"), thread())
    assert agent.outputs() == {f"c{n}": f"re n{n} first?, re n{n} second?" for n in range(3)}


async def test_a_new_message_replaces_a_function_that_waits_for_a_person() -> None:
    ran: list[str] = []
    agent = ScriptedAgent(first_asks(call("c1", "confirm", {"what": "pay"})))
    graph = supervisor(agent, tools=[confirm_tool(ran)])
    await graph.ainvoke(question("Pay it."), thread())
    agent.script = lambda items, number: [message("Never mind.")]
    await graph.ainvoke(question("Forget it."), thread())
    assert ran == []
    assert agent.jobs == 2
    assert agent.outputs() == {"c1": "No output: the call was not run."}


async def test_a_new_message_replaces_a_function_that_waits_for_its_second_answer() -> None:
    @tool
    async def form() -> str:
        """Ask twice."""
        return f"{interrupt('first?')}, {interrupt('second?')}"

    agent = ScriptedAgent(first_asks(call("c1", "form")))
    graph = supervisor(agent, tools=[form])
    await graph.ainvoke(question("Fill it in."), thread())
    state = await graph.ainvoke(Command(resume="one"), thread())
    assert [i.value for i in state["__interrupt__"]] == ["second?"]
    agent.script = lambda items, number: [message("Never mind.")]
    state = await graph.ainvoke(question("Forget it."), thread())
    assert texts(state)[-1] == "Never mind."
