"""A new message while the thread waits for a person: what was asked is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.tools import tool
from langgraph.types import Command

from databricks_supervisor.approvals.decisions import REPLACED, record_decision
from databricks_supervisor.errors import ThreadBusyError
from databricks_supervisor.state import Decision
from tests.support.compiled_graphs import WEB, latest_turn, ledger_of, supervisor
from tests.support.scripted_agent import (
    Item,
    ScriptedAgent,
    answer,
    approval,
    asked,
    call,
    first_asks,
    message,
    question,
    texts,
    thread,
    until,
)


@pytest.mark.parametrize("policy", ["reject", "wait", "cancel"])
@pytest.mark.parametrize("count", [1, 3])
async def test_a_new_message_refuses_what_is_pending_in_its_own_submission(policy: str, count: int) -> None:
    ids = [f"a{n}" for n in range(count)]
    agent = ScriptedAgent(first_asks(*(approval(id) for id in ids)))
    graph = supervisor(agent, on_busy=policy, tools=[WEB])
    await graph.ainvoke(question(), thread())
    agent.script = answer
    state = await graph.ainvoke(question("What else?"), thread())
    assert agent.jobs == 2
    assert agent.decisions() == dict.fromkeys(ids, False)
    refusals = [item for item in agent.inputs[-1] if item["type"] == "mcp_approval_response"]
    assert all(item["reason"] == REPLACED and item["id"] == item["approval_request_id"] for item in refusals)
    kinds = [item["type"] for item in agent.inputs[-1]]
    assert kinds == [
        "message",
        *(["mcp_approval_request"] * count),
        *(["mcp_approval_response"] * count),
        "message",
    ]
    assert texts(state)[-1] == "Answer to: What else?"
    decided = [m.additional_kwargs["decided_by"] for m in state["messages"] if ":decision:" in m.id]
    assert decided == ["policy"] * count


async def test_what_was_answered_before_the_new_message_stays_answered_in_the_thread() -> None:
    agent = ScriptedAgent(first_asks(approval("a1"), approval("a2")))
    graph = supervisor(agent, tools=[WEB])
    await graph.ainvoke(question(), thread())
    await graph.ainvoke(Command(resume={"a1": True}), thread())
    agent.script = answer
    await graph.ainvoke(question("What else?"), thread())
    # The approval had no effect yet, and its turn is over: the service hears no.
    assert agent.decisions() == {"a1": False, "a2": False}
    assert agent.jobs == 2


async def test_the_same_question_while_it_waits_asks_again_and_refuses_nothing() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    graph = supervisor(agent, tools=[WEB])
    first = await graph.ainvoke(question(), thread())
    again = await graph.ainvoke(question(), thread())
    assert again["__interrupt__"] == first["__interrupt__"]
    assert agent.jobs == 1
    await graph.ainvoke(Command(resume=True), thread())
    assert agent.decisions() == {"a1": True}


async def test_an_approval_that_was_recorded_just_before_goes_on() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    graph = supervisor(agent, tools=[WEB])
    await graph.ainvoke(question(), thread())
    ledger = await ledger_of(graph)
    turn = await latest_turn(graph)
    await record_decision(ledger, turn.turn_id, (0, "a1"), Decision(approve=True, by="person"))
    with pytest.raises(ThreadBusyError):
        await graph.ainvoke(question("What else?"), thread())
    await graph.ainvoke(Command(resume=False), thread())
    assert agent.decisions() == {"a1": True}


async def test_an_old_answer_after_a_new_message_approves_nothing() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    graph = supervisor(agent, tools=[WEB])
    stopped = await graph.ainvoke(question(), thread())
    agent.script = answer
    await graph.ainvoke(question("What else?"), thread())
    for resume in ({"a1": True}, True, {stopped["__interrupt__"][0].id: True}):
        await graph.ainvoke(Command(resume=resume), thread())
    assert agent.jobs == 2
    assert agent.decisions() == {"a1": False}


@pytest.mark.parametrize("turn", [2, 10])
@pytest.mark.parametrize("echo", [False, True])
async def test_a_later_turn_can_be_replaced_like_the_first(turn: int, echo: bool) -> None:
    agent = ScriptedAgent(echo=echo)
    graph = supervisor(agent, tools=[WEB])
    for n in range(1, turn):
        await graph.ainvoke(question(f"Question {n}"), thread())
    agent.script = first_asks(approval("a1"))
    await graph.ainvoke(question("Search."), thread())
    agent.script = answer
    state = await graph.ainvoke(question("Stop."), thread())
    assert agent.jobs == turn + 1
    assert agent.decisions() == {"a1": False}
    assert texts(state)[-1] == "Answer to: Stop."
    state = await graph.ainvoke(question("Go on."), thread())
    assert agent.jobs == turn + 2
    assert texts(state)[-1] == "Answer to: Go on."


async def test_every_turn_may_be_replaced_by_the_next() -> None:
    def script(items: list[Item], number: int) -> list[Item]:
        return [approval(f"a{number}")] if number < 6 else [message(f"Answer to: {asked(items)}")]

    agent = ScriptedAgent(script)
    graph = supervisor(agent, tools=[WEB])
    for n in range(1, 7):
        state = await graph.ainvoke(question(f"Question {n}"), thread())
    assert agent.jobs == 6
    assert agent.all_decisions() == [(f"a{n}", False) for n in range(1, 6)]
    assert texts(state)[-1] == "Answer to: Question 6"


async def test_a_call_beside_the_pending_approval_is_not_run() -> None:
    ran: list[str] = []

    @tool
    async def pay() -> str:
        """Pay."""
        ran.append("pay")
        return "paid"

    agent = ScriptedAgent(first_asks(approval("a1"), call("c1", "pay")))
    graph = supervisor(agent, tools=[WEB, pay])
    await graph.ainvoke(question(), thread())
    agent.script = answer
    await graph.ainvoke(question("What else?"), thread())
    assert ran == []
    assert agent.decisions() == {"a1": False}
    assert agent.outputs() == {"c1": "No output: the call was not run."}


async def test_an_unknown_submission_that_waits_for_a_person_is_replaced() -> None:
    agent = ScriptedAgent(fail_create=[500])
    graph = supervisor(agent)
    stopped = await graph.ainvoke(question(), thread())
    assert stopped["__interrupt__"][0].value["kind"] == "repeat_submission"
    state = await graph.ainvoke(question("What else?"), thread())
    assert agent.questions == ["What else?"]
    assert texts(state) == ["How much?", "What else?", "Answer to: What else?"]


async def test_a_function_that_runs_on_after_its_answer_is_not_replaced() -> None:
    from langgraph.types import interrupt

    began: list[Any] = []
    go = asyncio.Event()

    @tool
    async def pay() -> str:
        """Ask, then pay."""
        began.append(interrupt("pay?"))
        await go.wait()
        return "paid"

    agent = ScriptedAgent(first_asks(call("c1", "pay")))
    graph = supervisor(agent, tools=[pay])
    await graph.ainvoke(question(), thread())
    run = asyncio.create_task(graph.ainvoke(Command(resume="yes"), thread()))
    await until(lambda: began)
    with pytest.raises(ThreadBusyError):
        await graph.ainvoke(question("What else?"), thread())
    go.set()
    await run
    assert agent.outputs() == {"c1": "paid"}
