"""Client-side functions: run by ToolNode, each call once, and asked about where nobody knows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, InjectedStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt

from databricks_supervisor import MemoryLedger
from databricks_supervisor.approvals.decisions import record_decision
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import CallUnknownError, ConfigurationError
from databricks_supervisor.ledger import EffectKey
from databricks_supervisor.nodes.call_tools import REPEATABLE
from databricks_supervisor.state import Decision
from tests.support.compiled_graphs import latest_turn, ledger_of, supervisor
from tests.support.scripted_agent import (
    Item,
    ScriptedAgent,
    approval,
    call,
    first_asks,
    message,
    output,
    question,
    texts,
    thread,
    until,
)

DEAD = "another-host/1/1"


def add_tool(ran: list[Any] | None = None) -> Any:
    @tool
    async def add(a: int, b: int) -> int:
        """Add."""
        if ran is not None:
            ran.append((a, b))
        return a + b

    return add


async def claim_by_a_dead_worker(
    graph: CompiledSupervisorGraph, monkeypatch: pytest.MonkeyPatch, call_id: str, round_: int = 0
) -> None:
    """What a process leaves that is killed while it runs a call."""
    ledger = await ledger_of(graph)
    turn = await latest_turn(graph)
    claimed = await ledger.claim(EffectKey(turn.turn_id, round_, "tool", call_id), DEAD)
    assert claimed.mine
    monkeypatch.setattr("databricks_supervisor.ledger.run_once.is_dead", lambda worker: worker == DEAD)


# ---- what runs


@pytest.mark.parametrize("face", ["sync", "async"])
@pytest.mark.parametrize("caller", ["sync", "async"])
async def test_a_function_of_either_kind_runs_once_for_either_caller(face: str, caller: str) -> None:
    ran: list[int] = []

    def double(x: int) -> int:
        """Double."""
        ran.append(x)
        return 2 * x

    async def adouble(x: int) -> int:
        """Double."""
        return double(x)

    function = tool("double", double) if face == "sync" else tool("double", adouble)
    agent = ScriptedAgent(first_asks(call("c1", "double", {"x": 21})))
    graph = supervisor(agent, tools=[function])
    if caller == "sync":
        state = await asyncio.to_thread(graph.invoke, question(), thread())
    else:
        state = await graph.ainvoke(question(), thread())
    assert ran == [21]
    assert agent.jobs == 2
    assert agent.outputs() == {"c1": "42"}
    assert texts(state, "tool") == ["42"]
    effect = (await ledger_effects(graph))["tool"]
    assert effect.key.id == "c1"
    assert "outputs" in effect.outcome


async def ledger_effects(graph: CompiledSupervisorGraph) -> dict[str, Any]:
    ledger = await ledger_of(graph)
    turn = await latest_turn(graph)
    return {effect.key.kind: effect for effect in await ledger.effects(turn.turn_id)}


async def test_several_calls_run_at_the_same_time_and_go_back_in_one_follow_up() -> None:
    barrier = asyncio.Barrier(3)

    @tool
    async def meet(name: str) -> str:
        """Wait for the others."""
        await asyncio.wait_for(barrier.wait(), 10)
        return f"{name} was there"

    agent = ScriptedAgent(first_asks(*(call(f"c{n}", "meet", {"name": str(n)}) for n in range(3))))
    graph = supervisor(agent, tools=[meet])
    await graph.ainvoke(question(), thread())
    assert agent.jobs == 2
    assert agent.outputs() == {f"c{n}": f"{n} was there" for n in range(3)}


async def test_hosted_calls_are_never_run() -> None:
    ran: list[Any] = []

    def script(items: list[Item], number: int) -> list[Item]:
        return [call("h1", "system__ai__python_exec", {"code": "1"}), message("The result is 1.")]

    agent = ScriptedAgent(script)
    graph = supervisor(agent, tools=[add_tool(ran)])
    state = await graph.ainvoke(question(), thread())
    assert (agent.jobs, ran) == (1, [])
    assert texts(state)[-1] == "The result is 1."


async def test_a_call_that_the_service_answered_itself_is_not_run() -> None:
    ran: list[Any] = []

    def script(items: list[Item], number: int) -> list[Item]:
        return [call("c1", "add", {"a": 1, "b": 2}), output("c1", "3"), message("3")]

    agent = ScriptedAgent(script)
    graph = supervisor(agent, tools=[add_tool(ran)])
    await graph.ainvoke(question(), thread())
    assert (agent.jobs, ran) == (1, [])


async def test_a_hosted_call_beside_a_pending_one_is_left_alone() -> None:
    ran: list[Any] = []

    def script(items: list[Item], number: int) -> list[Item]:
        if number == 1:
            return [call("h1", "hosted"), output("h1", "ok"), call("c1", "add", {"a": 1, "b": 2})]
        return [message("Done.")]

    agent = ScriptedAgent(script)
    graph = supervisor(agent, tools=[add_tool(ran)])
    await graph.ainvoke(question(), thread())
    assert ran == [(1, 2)]
    assert agent.outputs() == {"h1": "ok", "c1": "3"}


async def test_an_error_of_the_function_is_told_to_the_model() -> None:
    @tool
    async def broken() -> str:
        """Fail."""
        raise RuntimeError("the database is away")

    agent = ScriptedAgent(first_asks(call("c1", "broken")))
    graph = supervisor(agent, tools=[broken])
    await graph.ainvoke(question(), thread())
    assert "the database is away" in agent.outputs()["c1"]


@pytest.mark.parametrize("arguments", ["{not json", "[1, 2]", '"text"', "3"])
async def test_arguments_that_are_no_object_are_told_to_the_model_and_nothing_runs(arguments: str) -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(first_asks(call("c1", "add", arguments)))
    graph = supervisor(agent, tools=[add_tool(ran)])
    await graph.ainvoke(question(), thread())
    assert ran == []
    assert agent.outputs()["c1"].startswith("Error")


async def test_arguments_that_the_function_does_not_take_are_told_to_the_model() -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": "one"})))
    graph = supervisor(agent, tools=[add_tool(ran)])
    await graph.ainvoke(question(), thread())
    assert ran == []
    assert "Error" in agent.outputs()["c1"]


@pytest.mark.parametrize("arguments", ["", "{}"])
async def test_a_function_without_arguments_may_be_called_with_none(arguments: str) -> None:
    @tool
    async def now() -> str:
        """The time."""
        return "noon"

    agent = ScriptedAgent(first_asks(call("c1", "now", arguments)))
    graph = supervisor(agent, tools=[now])
    await graph.ainvoke(question(), thread())
    assert agent.outputs() == {"c1": "noon"}


async def test_state_store_and_call_id_are_injected() -> None:
    seen: dict[str, Any] = {}

    @tool
    async def look(
        x: int,
        state: Annotated[dict[str, Any], InjectedState],
        store: Annotated[Any, InjectedStore()],
        call_id: Annotated[str, InjectedToolCallId],
    ) -> str:
        """Look around."""
        seen.update(question=state["messages"][0].text, last=state["messages"][-1].tool_calls[0]["id"])
        seen.update(stored=(await store.aget(("user",), "name")).value, call_id=call_id)
        return "seen"

    store = InMemoryStore()
    await store.aput(("user",), "name", {"is": "Ada"})
    agent = ScriptedAgent(first_asks(call("c1", "look", {"x": 1})))
    graph = agent.graph(tools=[look]).compile(checkpointer=InMemorySaver(), store=store)
    await graph.ainvoke(question("Who?"), thread())
    assert seen == {"question": "Who?", "last": "c1", "stored": {"is": "Ada"}, "call_id": "c1"}
    assert agent.outputs() == {"c1": "seen"}


async def test_a_command_updates_the_state_and_its_message_is_the_output() -> None:
    @tool
    async def note(call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Take a note."""
        said = ToolMessage("noted", tool_call_id=call_id)
        return Command(update={"messages": [said, HumanMessage("(an aside)", id="aside")]})

    agent = ScriptedAgent(lambda items, number: [call("c1", "note") if number == 1 else message("Done.")])
    graph = supervisor(agent, tools=[note])
    state = await graph.ainvoke(question(), thread())
    assert agent.outputs()["c1"] == "noted"
    assert "(an aside)" in texts(state, "human")


async def test_an_artifact_that_cannot_be_kept_does_not_lose_the_output() -> None:
    @tool(response_format="content_and_artifact")
    async def draw() -> tuple[str, Any]:
        """Draw."""
        return "a picture", threading.Lock()

    agent = ScriptedAgent(first_asks(call("c1", "draw")))
    graph = supervisor(agent, tools=[draw])
    await graph.ainvoke(question(), thread())
    assert agent.outputs() == {"c1": "a picture"}


async def test_an_artifact_that_can_be_kept_is_kept() -> None:
    @tool(response_format="content_and_artifact")
    async def draw() -> tuple[str, Any]:
        """Draw."""
        return "a picture", {"width": 3}

    agent = ScriptedAgent(first_asks(call("c1", "draw")))
    graph = supervisor(agent, tools=[draw])
    state = await graph.ainvoke(question(), thread())
    assert [m.artifact for m in state["messages"] if m.type == "tool"] == [{"width": 3}]


async def test_the_same_call_id_in_another_round_is_another_call() -> None:
    ran: list[Any] = []

    def script(items: list[Item], number: int) -> list[Item]:
        return [call("c1", "add", {"a": number, "b": 0})] if number <= 2 else [message("Done.")]

    agent = ScriptedAgent(script)
    graph = supervisor(agent, tools=[add_tool(ran)])
    await graph.ainvoke(question(), thread())
    assert ran == [(1, 0), (2, 0)]
    assert agent.jobs == 3


async def test_a_follow_up_with_functions_carries_the_tools_again() -> None:
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": 1, "b": 2})))
    graph = supervisor(agent, tools=[add_tool()])
    await graph.ainvoke(question(), thread())
    assert agent.bodies[0]["tools"] == agent.bodies[1]["tools"]
    assert agent.bodies[0]["tools"][0]["name"] == "add"


# ---- interrupts inside a function


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


# ---- once


class Crash(Exception):
    pass


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


async def test_two_drivers_of_one_thread_run_a_function_once() -> None:
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
    drivers = [asyncio.create_task(graph.ainvoke(question(), thread())) for _ in range(3)]
    await until(lambda: ran)
    await asyncio.sleep(0.05)
    go.set()
    states = await asyncio.gather(*drivers)
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


# ---- together with approvals


async def test_an_approval_and_a_call_go_back_in_one_follow_up() -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(first_asks(approval("a1"), call("c1", "add", {"a": 1, "b": 2})))
    graph = supervisor(agent, tools=[add_tool(ran)])
    await graph.ainvoke(question(), thread())
    assert (ran, agent.jobs) == ([], 1)
    await graph.ainvoke(Command(resume=True), thread())
    assert ran == [(1, 2)]
    assert agent.jobs == 2
    assert agent.decisions() == {"a1": True}
    assert agent.outputs() == {"c1": "3"}


# ---- handing over to a parent


def handing_over() -> Any:
    @tool
    async def hand_over(call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Hand over to a person."""
        said = ToolMessage("handed over", tool_call_id=call_id)
        return Command(goto="desk", graph=Command.PARENT, update={"messages": [said]})

    return hand_over


async def test_a_function_can_hand_over_to_a_node_of_the_parent() -> None:
    agent = ScriptedAgent(first_asks(call("c1", "hand_over")))
    parent = StateGraph(MessagesState)
    parent.add_node("ask", agent.graph(tools=[handing_over()]).compile(), destinations=("desk",))
    parent.add_node("desk", lambda state: {"messages": [("ai", "How can I help?")]})
    parent.add_edge(START, "ask")
    parent.add_edge("desk", END)
    graph = parent.compile(checkpointer=InMemorySaver())
    state = await graph.ainvoke(question(), thread())
    assert agent.jobs == 1
    assert texts(state)[-2:] == ["handed over", "How can I help?"]
    agent.script = lambda items, number: [message("Hello.")]
    state = await graph.ainvoke(question("Another one"), thread())
    assert agent.jobs == 2


async def test_handing_over_without_a_parent_does_not_wedge_the_thread() -> None:
    agent = ScriptedAgent(first_asks(call("c1", "hand_over")))
    graph = supervisor(agent, tools=[handing_over()])
    with pytest.raises(ConfigurationError, match="there is none"):
        await graph.ainvoke(question(), thread())
    agent.script = lambda items, number: [message("Hello again.")]
    state = await graph.ainvoke(question("And now?"), thread())
    assert texts(state)[-1] == "Hello again."


async def test_without_a_checkpointer_functions_run_too() -> None:
    ran: list[Any] = []
    agent = ScriptedAgent(first_asks(call("c1", "add", {"a": 1, "b": 2})))
    state = await agent.graph(tools=[add_tool(ran)], ledger=MemoryLedger()).compile().ainvoke(question())
    assert ran == [(1, 2)]
    assert texts(state, "tool") == ["3"]
