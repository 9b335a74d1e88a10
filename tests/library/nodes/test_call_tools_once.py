"""Each client-side call runs once; a person is asked about one that was cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from databricks_supervisor.approvals.decisions import record_decision
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import CallUnknownError
from databricks_supervisor.ledger import EffectKey
from databricks_supervisor.nodes.call_tools import REPEATABLE
from databricks_supervisor.state import Decision
from tests.library.nodes.client_functions import DEAD, add_tool, claim_by_a_dead_worker
from tests.support.compiled_graphs import Crash, latest_turn, ledger_of, supervisor
from tests.support.scripted_agent import (
    ScriptedAgent,
    call,
    first_asks,
    message,
    question,
    texts,
    thread,
    until,
)

# ---- runs at once, and crashes


class CrashingSaver(InMemorySaver):
    """Its process is killed when a checkpoint would be written of which ``when`` says so."""

    def __init__(self, when: Callable[[Any], bool]) -> None:
        super().__init__()
        self.when = when

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        if self.when(checkpoint["channel_values"]):
            raise Crash
        return await super().aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        if any(isinstance(value, Exception) or name == "__error__" for name, value, *_ in writes):
            return
        if any(name == "messages" and any(m.type == "tool" for m in value) for name, value in writes):
            return  # The process was gone before it could write what the node returned.
        await super().aput_writes(config, writes, task_id, task_path)


async def test_a_crash_after_the_function_and_before_the_checkpoint_does_not_run_it_again() -> None:
    ran: list[Any] = []
    saver = CrashingSaver(lambda values: any(m.type == "tool" for m in values.get("messages", [])))
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": 1, "b": 2})))
    graph = agent.graph(tools=[add_tool(ran)]).compile(checkpointer=saver)
    with pytest.raises(Crash):
        await graph.ainvoke(question(), thread())
    assert ran == [(1, 2)]
    saver.when = lambda values: False
    state = await graph.ainvoke(None, thread())
    assert ran == [(1, 2)]
    assert agent.jobs == 2
    assert texts(state, "tool") == ["3"]


async def test_an_older_checkpoint_finds_the_output_that_the_ledger_has() -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": 1, "b": 2})))
    graph = supervisor(agent, tools=[add_tool(ran)])
    await graph.ainvoke(question(), thread(), interrupt_after=["call_tools"])
    before = [s async for s in graph.aget_state_history(thread()) if s.next == ("call_tools",)]
    state = await graph.ainvoke(None, before[-1].config)
    assert ran == [(1, 2)]
    assert texts(state, "tool") == ["3"]


async def test_several_runs_of_one_thread_run_a_function_once() -> None:
    ran: list[str] = []
    go = asyncio.Event()

    @tool
    async def slow() -> str:
        """Wait."""
        ran.append("slow")
        await go.wait()
        return "ok"

    agent = ScriptedAgent(first_asks(call("c1", "slow")))
    graph = supervisor(agent, tools=[slow])
    runs = [asyncio.create_task(graph.ainvoke(question(), thread())) for _ in range(3)]
    await until(lambda: ran)
    await asyncio.sleep(0.05)
    go.set()
    states = await asyncio.gather(*runs)
    assert ran == ["slow"]
    assert agent.jobs == 2
    assert [texts(state, "tool") for state in states] == [["ok"]] * 3


# ---- cut off


async def stopped_before_tools(agent: ScriptedAgent, **settings: Any) -> CompiledSupervisorGraph:
    graph = supervisor(agent, **settings)
    await graph.ainvoke(question(), thread(), interrupt_before=["call_tools"])
    return graph


async def test_a_call_that_was_cut_off_is_asked_about_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(
        first_asks(call("c1", "add", {"a": 1, "b": 2}), call("c2", "add", {"a": 3, "b": 4}))
    )
    graph = await stopped_before_tools(agent, tools=[add_tool(ran)])
    await claim_by_a_dead_worker(graph, monkeypatch, "c1")
    state = await graph.ainvoke(None, thread())
    asked = state["__interrupt__"][0].value
    assert (asked["kind"], asked["ids"]) == ("repeat_call", ["c1"])
    assert asked["action_requests"][0]["args"] == {"a": 1, "b": 2}
    assert ran == []
    await graph.ainvoke(Command(resume=True), thread())
    assert sorted(ran) == [(1, 2), (3, 4)]
    assert agent.outputs() == {"c1": "3", "c2": "7"}


async def test_a_call_that_is_not_to_be_repeated_is_told_to_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": 1, "b": 2})))
    graph = await stopped_before_tools(agent, tools=[add_tool(ran)])
    await claim_by_a_dead_worker(graph, monkeypatch, "c1")
    await graph.ainvoke(None, thread())
    await graph.ainvoke(
        Command(resume={"decisions": [{"type": "reject", "message": "it was paid"}]}), thread()
    )
    assert ran == []
    assert "was not run again (it was paid)" in agent.outputs()["c1"]


async def test_a_decision_about_a_call_is_recorded_and_the_first_one_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": 1, "b": 2})))
    graph = await stopped_before_tools(agent, tools=[add_tool(ran)])
    await claim_by_a_dead_worker(graph, monkeypatch, "c1")
    await graph.ainvoke(None, thread())
    ledger = await ledger_of(graph)
    turn = await latest_turn(graph)
    first = Decision(approve=False, by="person", reason="it was paid")
    await record_decision(ledger, turn.turn_id, (0, "repeat_1_c1"), first)
    await graph.ainvoke(Command(resume=True), thread())
    assert ran == []
    assert "was not run again (it was paid)" in agent.outputs()["c1"]


async def test_what_a_call_was_about_is_recorded_with_the_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": 1, "b": 2})))
    graph = await stopped_before_tools(agent, tools=[add_tool([])])
    await claim_by_a_dead_worker(graph, monkeypatch, "c1")
    await graph.ainvoke(None, thread())
    await graph.ainvoke(Command(resume=True), thread())
    ledger = await ledger_of(graph)
    (turn,) = await ledger.turns_with_effect("decision", "repeat_1_c1")
    recorded = await ledger.get_effect(EffectKey(turn.turn_id, 0, "decision", "repeat_1_c1"))
    assert recorded is not None
    assert recorded.outcome == {
        "approve": True,
        "by": "person",
        "asked": {"name": "add", "args": {"a": 1, "b": 2}},
    }


async def test_several_that_were_cut_off_are_answered_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(
        first_asks(call("c1", "add", {"a": 1, "b": 2}), call("c2", "add", {"a": 3, "b": 4}))
    )
    graph = await stopped_before_tools(agent, tools=[add_tool(ran)])
    await claim_by_a_dead_worker(graph, monkeypatch, "c1")
    await claim_by_a_dead_worker(graph, monkeypatch, "c2")
    state = await graph.ainvoke(None, thread())
    assert state["__interrupt__"][0].value["ids"] == ["c1", "c2"]
    state = await graph.ainvoke(Command(resume={"c2": False}), thread())
    assert state["__interrupt__"][0].value["ids"] == ["c1"]
    state = await graph.ainvoke(Command(resume={"c9": True}), thread())
    assert "c9" in state["__interrupt__"][0].value["error"]
    assert ran == []
    await graph.ainvoke(Command(resume={"c1": True}), thread())
    assert ran == [(1, 2)]
    assert agent.outputs()["c1"] == "3"
    assert "was not run again" in agent.outputs()["c2"]


@pytest.mark.parametrize("policy", ["ask", "resubmit", "fail"])
async def test_a_function_that_is_safe_to_repeat_is_repeated_without_asking(
    monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    ran: list[Any] = []
    add = add_tool(ran)
    add.metadata = {REPEATABLE: True}
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": 1, "b": 2})))
    graph = await stopped_before_tools(agent, tools=[add], on_unknown_submission=policy)
    await claim_by_a_dead_worker(graph, monkeypatch, "c1")
    await graph.ainvoke(None, thread())
    assert ran == [(1, 2)]
    assert agent.outputs() == {"c1": "3"}


async def test_resubmit_runs_a_cut_off_call_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": 1, "b": 2})))
    graph = await stopped_before_tools(agent, tools=[add_tool(ran)], on_unknown_submission="resubmit")
    await claim_by_a_dead_worker(graph, monkeypatch, "c1")
    await graph.ainvoke(None, thread())
    assert ran == [(1, 2)]


async def test_fail_ends_the_turn_and_the_next_message_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": 1, "b": 2})))
    graph = await stopped_before_tools(agent, tools=[add_tool(ran)], on_unknown_submission="fail")
    await claim_by_a_dead_worker(graph, monkeypatch, "c1")
    with pytest.raises(CallUnknownError, match="c1"):
        await graph.ainvoke(None, thread())
    agent.script = lambda items, number: [message("Hello again.")]
    state = await graph.ainvoke(question("And now?"), thread())
    assert texts(state)[-1] == "Hello again."
    assert ran == []


async def test_a_function_cut_off_after_its_answer_is_asked_about_and_not_repeated_on_that_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a person told the function is no answer to whether it may run twice."""
    began: list[Any] = []
    go = asyncio.Event()

    @tool
    async def pay() -> str:
        """Ask, then pay."""
        answer = interrupt("pay?")
        began.append(answer)
        await go.wait()
        return "paid"

    agent = ScriptedAgent(first_asks(call("c1", "pay")))
    saver = InMemorySaver()
    graph = agent.graph(tools=[pay]).compile(checkpointer=saver)
    await graph.ainvoke(question(), thread())
    monkeypatch.setattr("databricks_supervisor.ledger.run_once.this_worker", lambda: DEAD)
    killed = asyncio.create_task(graph.ainvoke(Command(resume=True), thread()))
    await until(lambda: began)
    monkeypatch.undo()
    monkeypatch.setattr("databricks_supervisor.ledger.run_once.is_dead", lambda worker: worker == DEAD)
    state = await agent.graph(tools=[pay]).compile(checkpointer=saver).ainvoke(None, thread())
    assert began == [True]
    assert state["__interrupt__"][0].value["kind"] == "repeat_call"
    killed.cancel()
    go.set()
    await asyncio.gather(killed, return_exceptions=True)
