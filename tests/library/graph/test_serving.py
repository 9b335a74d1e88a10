"""What a server in front of the graph uses: prepared runs, tools of the caller, messages that are taken out."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.tools import tool

from databricks_supervisor.approvals.decisions import record_decision
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.entry.prepare import PreparedRun
from databricks_supervisor.errors import (
    InvalidInputError,
    NothingToResumeError,
    SubmissionUnknownError,
    ThreadBusyError,
)
from databricks_supervisor.ledger import EffectKey
from databricks_supervisor.state import Decision
from tests.support.compiled_graphs import ledger_of, supervisor
from tests.support.graph_harness import CONFIG, DROPPED, GraphHarness, harness
from tests.support.scripted_agent import (
    Plan,
    ScriptedAgent,
    answer,
    call,
    message,
    question,
    texts,
    thread,
    until,
)
from tests.support.scripted_service import response

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


async def stream_of(graph: CompiledSupervisorGraph, prepared: Any, config: Any = None) -> list[Any]:
    return [chunk async for chunk in graph.astream(prepared, config or thread(), stream_mode="values")]


async def read_messages(graph: CompiledSupervisorGraph) -> list[BaseMessage]:
    found: list[BaseMessage] = (await graph.aget_state(thread())).values.get("messages", [])
    return found


# ---- preparing a run, and then running it


async def test_preparing_a_run_opens_the_turn_and_submits_nothing() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    prepared = await graph.aprepare({**question(), "turn_id": "mine"}, thread())
    assert (prepared.turn_id, prepared.begins) == ("mine", True)
    ledger = await ledger_of(graph)
    assert [turn.turn_id for turn in await ledger.open_turns(9)] == ["mine"]
    assert agent.jobs == 0
    assert await read_messages(graph) == []


async def test_a_prepared_run_submits_once() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    prepared = await graph.aprepare(question(), thread())
    assert texts((await stream_of(graph, prepared))[-1]) == ["How much?", "Answer to: How much?"]
    again = await graph.aprepare(question(), thread())
    assert again.turn_id != prepared.turn_id
    assert agent.jobs == 1


async def test_runs_prepared_for_one_question_are_one_turn_and_one_job() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    runs = [await graph.aprepare(question(), thread()) for _ in range(3)]
    assert len({prepared.turn_id for prepared in runs}) == 1
    await stream_of(graph, runs[0])
    later = await graph.aprepare({**question(), "turn_id": runs[0].turn_id}, thread())
    assert (later.turn_id, later.begins) == (runs[0].turn_id, False)
    await stream_of(graph, later)
    assert agent.jobs == 1
    assert texts({"messages": await read_messages(graph)}) == ["How much?", "Answer to: How much?"]


async def test_a_prepared_run_that_nobody_ran_is_found_by_the_same_question() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    prepared = await graph.aprepare(question(), thread())
    state = await graph.ainvoke(question(), thread())
    ledger = await ledger_of(graph)
    turn = await ledger.get_turn(prepared.turn_id or "")
    assert turn is not None
    assert turn.ended_at is not None
    assert agent.jobs == 1
    assert len(texts(state)) == 2


class Seen(AsyncCallbackHandler):
    """Remembers the nodes that ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def on_chain_start(self, serialized: Any, inputs: Any, **more: Any) -> None:
        self.names.append(str(more.get("name")))


async def test_callbacks_and_tags_of_the_run_are_kept() -> None:
    graph = supervisor(ScriptedAgent())
    seen = Seen()
    prepared = await graph.aprepare(question(), thread())
    await stream_of(graph, prepared, {**thread(), "callbacks": [seen], "run_name": "mine"})
    assert "submit" in seen.names
    assert seen.names[0] == "mine"


async def test_callbacks_given_when_it_was_prepared_are_kept_too() -> None:
    graph = supervisor(ScriptedAgent())
    seen = Seen()
    prepared = await graph.aprepare(question(), {**thread(), "callbacks": [seen]})
    assert isinstance(prepared, PreparedRun)
    assert seen.names == []
    await stream_of(graph, prepared)
    assert "submit" in seen.names


@pytest.mark.parametrize("input", [{}, {"messages": []}, question("")])
async def test_no_run_is_prepared_for_what_is_no_question(input: Any) -> None:
    with pytest.raises(InvalidInputError, match="Nothing was submitted"):
        await supervisor(ScriptedAgent()).aprepare(input, thread())


async def test_there_must_be_something_to_go_on_with() -> None:
    with pytest.raises(NothingToResumeError):
        await supervisor(ScriptedAgent()).aprepare(None, thread())


# ---- tools of the caller


def asks_weather(items: list[Any], number: int) -> list[Any]:
    """The first job calls the caller's function; the next one tells what it gave."""
    outputs = [item["output"] for item in items if item["type"] == "function_call_output"]
    return [message(f"It is {outputs[-1]}.")] if outputs else [call("c1", "weather", {"city": "Bonn"})]


async def test_a_call_of_the_caller_s_function_ends_the_turn_and_its_output_is_the_next_question() -> None:
    agent = ScriptedAgent(asks_weather)
    graph = supervisor(agent)
    state = await graph.ainvoke({**question(), "tools": [WEATHER]}, thread())
    assert agent.bodies[0]["tools"] == [WEATHER]
    assert state["messages"][-1].tool_calls[0]["name"] == "weather"
    assert (await graph.aget_state(thread())).next == ()
    given = {"messages": [ToolMessage("sunny", tool_call_id="c1")], "tools": [WEATHER]}
    state = await graph.ainvoke(given, thread())
    assert texts(state)[-1] == "It is sunny."
    assert agent.outputs(1) == {"c1": "sunny"}
    assert agent.jobs == 2


async def test_tools_are_of_one_turn() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await graph.ainvoke({**question("one"), "tools": [WEATHER]}, thread())
    await graph.ainvoke(question("two"), thread())
    assert [body.get("tools") for body in agent.bodies] == [[WEATHER], None]


async def test_tools_of_both_reach_the_service() -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    agent = ScriptedAgent()
    await supervisor(agent, tools=[add]).ainvoke({**question(), "tools": [WEATHER]}, thread())
    assert [each["name"] for each in agent.bodies[0]["tools"]] == ["add", "weather"]


@pytest.mark.parametrize(
    "tools",
    [
        [{**WEATHER, "name": "add"}],
        [WEATHER, WEATHER],
        [{**WEATHER, "name": "not a name"}],
        [{**WEATHER, "parameters": {"type": "string"}}],
        [{"type": "genie_space", "genie_space": {"id": "1"}}],
        ["weather"],
        {"weather": WEATHER},
    ],
)
async def test_tools_that_cannot_work_are_refused_before_anything_happens(tools: Any) -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    agent = ScriptedAgent()
    graph = supervisor(agent, tools=[add])
    with pytest.raises(InvalidInputError, match="Nothing was submitted"):
        await graph.ainvoke({**question(), "tools": tools}, thread())
    ledger = await ledger_of(graph)
    assert await ledger.open_turns(9) == []
    assert agent.jobs == 0
    assert await read_messages(graph) == []


# ---- messages that are taken out


async def asked_twice(agent: ScriptedAgent) -> CompiledSupervisorGraph:
    graph = supervisor(agent)
    await graph.ainvoke(question("one"), thread())
    await graph.ainvoke(question("two"), thread())
    return graph


def instead(of: list[BaseMessage], text: str) -> dict[str, Any]:
    return {"messages": [*(RemoveMessage(id=str(each.id)) for each in of), HumanMessage(text)]}


async def test_messages_are_taken_out_with_the_new_turn() -> None:
    agent = ScriptedAgent()
    graph = await asked_twice(agent)
    gone = (await read_messages(graph))[2:]
    state = await graph.ainvoke(instead(gone, "three"), thread())
    assert texts(state) == ["one", "Answer to: one", "three", "Answer to: three"]
    said = [item["content"][0]["text"] for item in agent.inputs[2]]
    assert said == ["one", "Answer to: one", "three"]


async def test_messages_that_are_not_there_are_not_missed() -> None:
    agent = ScriptedAgent()
    graph = await asked_twice(agent)
    given = {"messages": [RemoveMessage(id="never was"), HumanMessage("three")]}
    assert len(texts(await graph.ainvoke(given, thread()))) == 6
    new = await graph.ainvoke(given, thread("new"))
    assert texts(new) == ["three", "Answer to: three"]


async def test_entering_alone_takes_nothing_out() -> None:
    graph = await asked_twice(ScriptedAgent())
    before = await read_messages(graph)
    prepared = await graph.aprepare(instead(before, "three"), thread())
    assert await read_messages(graph) == before
    await stream_of(graph, prepared)
    assert texts({"messages": await read_messages(graph)}) == ["three", "Answer to: three"]


async def test_a_repeat_takes_nothing_out() -> None:
    agent = ScriptedAgent(lambda items, number: Plan(answer(items, number), held=number == 3))
    graph = await asked_twice(agent)
    gone = (await read_messages(graph))[2:]
    running = asyncio.create_task(graph.ainvoke(instead(gone, "three"), thread()))
    await until(lambda: agent.jobs == 3)
    everything = await read_messages(graph)
    agent.release()
    state = await graph.ainvoke(instead(everything, "three"), thread())
    await running
    assert agent.jobs == 3
    assert texts(state) == ["one", "Answer to: one", "three", "Answer to: three"]


async def test_a_busy_thread_keeps_its_messages() -> None:
    agent = ScriptedAgent(lambda items, number: Plan(answer(items, number), held=number == 3))
    graph = await asked_twice(agent)
    running = asyncio.create_task(graph.ainvoke(question("three"), thread()))
    await until(lambda: agent.jobs == 3)
    before = await read_messages(graph)
    with pytest.raises(ThreadBusyError):
        await graph.ainvoke(instead(before, "four"), thread())
    assert await read_messages(graph) == before
    agent.release()
    await running
    assert len(await read_messages(graph)) == 6


# ---- headers of a submission


async def test_more_headers_reach_the_post_alone() -> None:
    given = iter(["1", "2", "3"])
    async with harness(request_headers=lambda: {"traceparent": f"00-{next(given)}"}) as h:
        await h.ask("one")
        await h.ask("two")
    assert [post.headers["traceparent"] for post in h.service.posts] == ["00-1", "00-2"]
    assert not any("traceparent" in get.headers for get in h.service.gets)


@pytest.mark.parametrize("broken", [KeyError("secret-value"), TypeError("no")])
async def test_headers_that_cannot_be_had_are_only_missed(
    broken: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def headers() -> dict[str, str]:
        raise broken

    with caplog.at_level(logging.WARNING):
        async with harness(request_headers=headers) as h:
            await h.ask()
            assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 1
    assert "no_request_headers" in caplog.text
    assert "secret-value" not in caplog.text


# ---- decisions about what nobody knows


async def decision(h: GraphHarness, id: str) -> dict[str, Any] | None:
    effect = await (await h.ledger()).get_effect(EffectKey((await h.turn()).turn_id, 0, "decision", id))
    return effect.outcome if effect is not None else None


async def test_a_yes_to_a_resubmission_is_recorded_with_what_was_asked() -> None:
    async with harness([DROPPED, response("queued")]) as h:
        await h.ask()
        known = (await h.interrupt())["action_requests"][0]["args"]
        await h.resume({"resubmit_1": True})
        found = await decision(h, "resubmit_1")
        assert found == {
            "approve": True,
            "by": "person",
            "asked": {"name": "resubmit_job", "args": known},
        }
        assert await h.texts() == ["How much?", "42"]


async def test_the_first_decision_about_a_resubmission_stands() -> None:
    async with harness([DROPPED, response("queued")]) as h:
        await h.ask()
        no = Decision(approve=False, by="person", reason="too dear")
        await record_decision(await h.ledger(), (await h.turn()).turn_id, (0, "resubmit_1"), no)
        with pytest.raises(SubmissionUnknownError, match="too dear"):
            await h.resume({"resubmit_1": True})
        assert len(h.service.posts) == 1
    async with harness([DROPPED, response("queued")]) as h:
        await h.ask()
        yes = Decision(approve=True, by="person")
        await record_decision(await h.ledger(), (await h.turn()).turn_id, (0, "resubmit_1"), yes)
        await h.resume({"resubmit_1": False})
        assert len(h.service.posts) == 2
        assert await h.texts() == ["How much?", "42"]


async def test_each_attempt_has_a_decision_of_its_own() -> None:
    async with harness([DROPPED, DROPPED, response("queued")]) as h:
        await h.ask()
        await h.resume({"resubmit_1": True})
        assert await decision(h, "resubmit_2") is None
        await h.resume({"resubmit_2": True})
        assert (await decision(h, "resubmit_2") or {})["approve"] is True
        assert len(h.service.posts) == 3


async def test_a_run_that_is_resumed_by_config_alone_asks_again() -> None:
    async with harness([DROPPED, response("queued")]) as h:
        await h.ask()
        prepared = await h.graph.aprepare(None, CONFIG)
        assert prepared.turn_id is None
        await stream_of(h.graph, prepared, CONFIG)
        assert (await h.interrupt())["ids"] == ["resubmit_1"]
        assert len(h.service.posts) == 1
