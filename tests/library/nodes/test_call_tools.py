"""Client-side functions: what is run, what goes back to the service, and how a function hands over."""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated, Any

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, InjectedStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command

from databricks_supervisor import MemoryLedger
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import ConfigurationError
from tests.library.nodes.client_functions import add_tool
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
)

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
