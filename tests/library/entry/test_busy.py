"""A new message while another question of the thread is open: rejected, waiting, or in its place."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from langchain_core.tools import tool

from databricks_supervisor import Time
from databricks_supervisor.errors import PermissionDeniedError, ThreadBusyError, TurnEndedError
from databricks_supervisor.ledger import NewTurn
from tests.support.compiled_graphs import (
    ANSWERED,
    WEB,
    cancel,
    first_is_held,
    ledger_of,
    parent_of,
    running,
    supervisor,
)
from tests.support.scripted_agent import (
    Item,
    Plan,
    ScriptedAgent,
    answer,
    approval,
    call,
    first_asks,
    instant,
    question,
    texts,
    thread,
)

# ---- reject


async def test_a_rejected_message_never_reaches_the_thread() -> None:
    agent = ScriptedAgent(first_is_held)
    graph = supervisor(agent)
    async with running(agent, graph) as run:
        before = await graph.aget_state(thread())
        with pytest.raises(ThreadBusyError, match="busy with another question"):
            await graph.ainvoke(question("What else?"), thread())
        assert (await graph.aget_state(thread())).config == before.config
        agent.release()
        assert texts(await run) == ANSWERED
    assert agent.questions == ["How much?"]
    state = await graph.ainvoke(question("What else?"), thread())
    assert texts(state) == [*ANSWERED, "What else?", "Answer to: What else?"]


@pytest.mark.parametrize("caller", ["sync", "async"])
async def test_after_a_rejection_the_thread_resumes_as_if_nothing_had_happened(caller: str) -> None:
    agent = ScriptedAgent(first_is_held)
    graph = supervisor(agent)
    async with running(agent, graph):
        pass
    other = question("What else?")
    run = graph.ainvoke(other, thread())
    if caller == "sync":
        run.close()
        run = asyncio.to_thread(graph.invoke, other, thread())
    with pytest.raises(ThreadBusyError):
        await run
    agent.release()
    assert texts(await graph.ainvoke(None, thread())) == ANSWERED
    assert agent.jobs == 1


async def test_a_turn_that_nobody_began_blocks_the_thread_for_a_minute_at_most() -> None:
    """Its process died between the ledger and the first checkpoint."""
    now = [0.0]
    for policy in ("reject", "wait", "cancel"):
        agent = ScriptedAgent()
        graph = supervisor(agent, on_busy=policy, time=instant(lambda: now[0]))
        ledger = await ledger_of(graph)
        lost, _ = await ledger.open_turn(NewTurn("lost", "t", "", None, "digest"))
        now[0] = lost.opened_at + 10
        if policy == "reject":
            with pytest.raises(ThreadBusyError):
                await graph.ainvoke(question(), thread())
        now[0] = lost.opened_at + 61
        assert texts(await graph.ainvoke(question(), thread())) == ANSWERED


async def test_waiting_for_a_turn_that_is_about_to_begin_is_no_endless_loop() -> None:
    now = [0.0]
    agent = ScriptedAgent()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds
        await asyncio.sleep(0)

    graph = supervisor(agent, on_busy="wait", time=type(instant())(lambda: now[0], sleep, lambda: 0.5))
    ledger = await ledger_of(graph)
    lost, _ = await ledger.open_turn(NewTurn("lost", "t", "", None, "digest"))
    now[0] = lost.opened_at
    assert texts(await graph.ainvoke(question(), thread())) == ANSWERED
    assert sum(slept) >= 60


async def test_a_question_that_the_service_refused_is_replaced_after_a_while() -> None:
    agent = ScriptedAgent(fail_create=[403])
    clock = [time.time()]
    graph = supervisor(agent, time=Time(now=lambda: clock[0], sleep=asyncio.sleep))
    with pytest.raises(PermissionDeniedError):
        await graph.ainvoke(question(), thread())
    with pytest.raises(ThreadBusyError):
        await graph.ainvoke(question("What else?"), thread())
    clock[0] += 61
    state = await graph.ainvoke(question("What else?"), thread())
    assert agent.questions == ["What else?"]
    assert texts(state)[-1] == "Answer to: What else?"


async def test_a_question_that_was_submitted_is_not_replaced() -> None:
    agent = ScriptedAgent(first_is_held)
    clock = [time.time()]
    graph = supervisor(agent, time=Time(now=lambda: clock[0], sleep=asyncio.sleep))
    async with running(agent, graph) as run:
        clock[0] += 61
        with pytest.raises(ThreadBusyError):
            await graph.ainvoke(question("What else?"), thread())
        agent.release()
        assert texts(await run) == ANSWERED


# ---- wait


@pytest.mark.parametrize("first_run", ["alive", "gone"])
@pytest.mark.parametrize("caller", ["sync", "async"])
async def test_wait_asks_after_the_answer(first_run: str, caller: str) -> None:
    agent = ScriptedAgent(first_is_held)
    graph = supervisor(agent, on_busy="wait")

    async def ask_next() -> Any:
        if caller == "sync":
            return await asyncio.to_thread(graph.invoke, question("What else?"), thread())
        return await graph.ainvoke(question("What else?"), thread())

    async with running(agent, graph) as run:
        if first_run == "gone":
            await cancel(run)
        waiting = asyncio.create_task(ask_next())
        await asyncio.sleep(0.05)
        assert agent.jobs == 1
        agent.release()
        state = await waiting
    assert agent.questions == ["How much?", "What else?"]
    assert texts(state) == [*ANSWERED, "What else?", "Answer to: What else?"]


async def test_wait_goes_on_though_the_question_before_failed() -> None:
    def script(items: list[Item], number: int) -> Plan:
        if number == 1:
            return Plan([], "failed", held=True, error={"message": "boom"})
        return Plan(answer(items, number))

    agent = ScriptedAgent(script)
    graph = supervisor(agent, on_busy="wait")
    async with running(agent, graph) as run:
        waiting = asyncio.create_task(graph.ainvoke(question("What else?"), thread()))
        await asyncio.sleep(0.02)
        agent.release()
        state = await waiting
        await asyncio.gather(run, return_exceptions=True)
    assert texts(state) == ["How much?", "What else?", "Answer to: What else?"]


async def test_wait_replaces_a_question_that_turns_out_to_need_a_person() -> None:
    def script(items: list[Item], number: int) -> Plan:
        return Plan([approval("a1")], held=True) if number == 1 else Plan(answer(items, number))

    agent = ScriptedAgent(script)
    graph = supervisor(agent, on_busy="wait", tools=[WEB])
    async with running(agent, graph):
        waiting = asyncio.create_task(graph.ainvoke(question("What else?"), thread()))
        await asyncio.sleep(0.02)
        agent.release()
        state = await waiting
    assert agent.jobs == 2
    assert agent.decisions() == {"a1": False}
    assert texts(state)[-1] == "Answer to: What else?"


# ---- cancel


@pytest.mark.parametrize("first_run", ["alive", "gone"])
async def test_cancel_ends_the_job_and_asks(first_run: str) -> None:
    agent = ScriptedAgent(first_is_held)
    graph = supervisor(agent, on_busy="cancel")
    async with running(agent, graph) as run:
        if first_run == "gone":
            await cancel(run)
        state = await graph.ainvoke(question("What else?"), thread())
        assert len(agent.cancelled) == 1
        agent.release()
        if first_run == "alive":
            with pytest.raises(TurnEndedError, match="another message followed"):
                await run
    assert texts(state) == ["How much?", "What else?", "Answer to: What else?"]
    kept = await graph.aget_state(thread())
    assert texts(kept.values) == texts(state)
    assert kept.next == ()


async def test_a_job_that_cannot_be_cancelled_is_abandoned_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = ScriptedAgent(first_is_held, cancels=False)
    graph = supervisor(agent, on_busy="cancel")
    async with running(agent, graph) as run:
        state = await graph.ainvoke(question("What else?"), thread())
        agent.release()
        with pytest.raises(TurnEndedError):
            await run
    assert len(agent.cancel_asked) == 1
    assert "abandoned" in caplog.text
    kept = await graph.aget_state(thread())
    assert texts(kept.values) == texts(state) == ["How much?", "What else?", "Answer to: What else?"]
    state = await graph.ainvoke(question("And then?"), thread())
    assert texts(state)[-1] == "Answer to: And then?"


async def test_after_a_cancelled_question_the_same_one_is_a_new_job() -> None:
    agent = ScriptedAgent(first_is_held)
    graph = supervisor(agent, on_busy="cancel")
    async with running(agent, graph):
        await graph.ainvoke(question("What else?"), thread())
        state = await graph.ainvoke(question(), thread())
    assert agent.questions == ["How much?", "What else?", "How much?"]
    assert texts(state)[-1] == "Answer to: How much?"


# ---- under a parent


def under_a_parent(agent: ScriptedAgent, **settings: Any) -> Any:
    return parent_of(("ask", agent.graph(**settings).compile()))


async def test_under_a_parent_a_new_message_finds_the_job_running() -> None:
    agent = ScriptedAgent(first_is_held)
    graph = under_a_parent(agent)
    async with running(agent, graph):
        pass
    with pytest.raises(ThreadBusyError):
        await graph.ainvoke(question("What else?"), thread())
    assert agent.jobs == 1


async def test_under_a_parent_cancel_ends_the_job_and_asks() -> None:
    agent = ScriptedAgent(first_is_held)
    graph = under_a_parent(agent, on_busy="cancel")
    async with running(agent, graph):
        pass
    state = await graph.ainvoke(question("What else?"), thread())
    assert len(agent.cancelled) == 1
    assert texts(state)[-1] == "Answer to: What else?"


async def test_under_a_parent_wait_ends_though_nobody_runs_the_job_any_more() -> None:
    agent = ScriptedAgent(first_is_held)
    graph = under_a_parent(agent, on_busy="wait")
    async with running(agent, graph):
        pass
    waiting = asyncio.create_task(graph.ainvoke(question("What else?"), thread()))
    await asyncio.sleep(0.05)
    assert agent.jobs == 1
    agent.release()
    state = await waiting
    assert agent.jobs == 2
    assert texts(state)[-1] == "Answer to: What else?"


async def test_under_a_parent_what_waits_for_a_person_is_replaced() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    graph = under_a_parent(agent, tools=[WEB])
    await graph.ainvoke(question(), thread())
    agent.script = answer
    state = await graph.ainvoke(question("What else?"), thread())
    assert agent.jobs == 2
    assert texts(state)[-1] == "Answer to: What else?"


# ---- what the run before may still do


async def test_the_run_before_runs_no_function_and_posts_nothing_after_the_new_turn() -> None:
    ran: list[str] = []

    @tool
    async def pay() -> str:
        """Pay."""
        ran.append("pay")
        return "paid"

    def script(items: list[Item], number: int) -> Plan:
        if number == 1:
            return Plan([call("c1", "pay")], held=True)
        return Plan(answer(items, number))

    agent = ScriptedAgent(script, cancels=False)
    graph = supervisor(agent, on_busy="cancel", tools=[pay])
    async with running(agent, graph) as run:
        await graph.ainvoke(question("What else?"), thread())
        agent.release()
        with pytest.raises(TurnEndedError):
            await run
    assert ran == []
    assert agent.jobs == 2
    assert "paid" not in json.dumps(agent.bodies)
