"""What is the same question again, and what is a new one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from databricks_supervisor.errors import JobFailedError, TurnMismatchError
from tests.support.compiled_graphs import ANSWERED, cancel, supervisor
from tests.support.scripted_agent import (
    Plan,
    ScriptedAgent,
    answer,
    instant,
    message,
    question,
    texts,
    thread,
    until,
)

# ---- by its turn id


async def test_a_turn_id_settles_what_is_the_same() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    states = [await graph.ainvoke({**question(), "turn_id": "one"}, thread()) for _ in range(2)]
    assert agent.jobs == 1
    assert [texts(state) for state in states] == [ANSWERED] * 2
    with pytest.raises(TurnMismatchError):
        await graph.ainvoke({**question("What else?"), "turn_id": "one"}, thread())
    state = await graph.ainvoke({**question(), "turn_id": "two"}, thread())
    assert agent.jobs == 2
    assert texts(state) == ANSWERED * 2


# ---- the same question again


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_five_identical_questions_at_once_are_one_job(kind: str, tmp_path: Path) -> None:
    agent = ScriptedAgent(lambda items, number: Plan(answer(items, number), polls=4))
    if kind == "memory":
        await five_at_once(agent, InMemorySaver())
    else:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
            await five_at_once(agent, saver)


async def five_at_once(agent: ScriptedAgent, saver: Any) -> None:
    graphs = [agent.graph().compile(checkpointer=saver) for _ in range(5)]
    states = await asyncio.gather(*(graph.ainvoke(question(), thread()) for graph in graphs))
    assert agent.jobs == 1
    assert [texts(state) for state in states] == [ANSWERED] * 5
    kept = await graphs[0].aget_state(thread())
    assert texts(kept.values) == ANSWERED
    for graph in graphs:
        await (await graph.parts.ledgers.resolve(saver)).aclose()


async def test_sync_and_async_callers_at_once_are_one_job() -> None:
    agent = ScriptedAgent(lambda items, number: Plan(answer(items, number), polls=4))
    graph = supervisor(agent)
    ways = [asyncio.to_thread(graph.invoke, question(), thread()) if n % 2 else None for n in range(6)]
    states = await asyncio.gather(*(way or graph.ainvoke(question(), thread()) for way in ways))
    assert agent.jobs == 1
    assert [texts(state) for state in states] == [ANSWERED] * 6


async def test_the_question_is_kept_once_when_it_is_asked_again_while_its_job_runs() -> None:
    agent = ScriptedAgent(lambda items, number: Plan(answer(items, number), held=True))
    graph = supervisor(agent)
    run = asyncio.create_task(graph.ainvoke(question(), thread()))
    await until(lambda: agent.polled)
    await cancel(run)
    again = asyncio.create_task(graph.ainvoke(question(), thread()))
    await asyncio.sleep(0.02)
    agent.release()
    assert texts(await again) == ANSWERED
    assert agent.jobs == 1


async def test_the_same_question_after_its_answer_is_a_new_job() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await graph.ainvoke(question(), thread())
    state = await graph.ainvoke(question(), thread())
    assert agent.jobs == 2
    assert texts(state) == ANSWERED * 2
    assert [len(items) for items in agent.inputs] == [1, 3]


async def test_two_threads_do_not_know_each_other() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await asyncio.gather(*(graph.ainvoke(question(), thread(id)) for id in ("a", "b")))
    assert agent.jobs == 2
    await graph.ainvoke(question("And?"), thread("a"))
    assert texts((await graph.aget_state(thread("b"))).values) == ANSWERED


async def test_ten_turns_of_a_thread_send_the_whole_history_each_time() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    for n in range(10):
        state = await graph.ainvoke(question(f"Question {n}"), thread())
    assert agent.jobs == 10
    assert texts(state) == [t for n in range(10) for t in (f"Question {n}", f"Answer to: Question {n}")]
    assert [len(items) for items in agent.inputs] == [2 * n + 1 for n in range(10)]


async def test_a_job_that_failed_is_told_and_the_same_question_is_a_new_job() -> None:
    agent = ScriptedAgent(lambda items, number: Plan([], "failed", error={"message": "boom"}))
    graph = supervisor(agent)
    for _ in range(2):
        with pytest.raises(JobFailedError, match="boom"):
            await graph.ainvoke(question(), thread())
    assert agent.jobs == 2
    with pytest.raises(JobFailedError, match="boom"):
        await graph.ainvoke(None, thread())
    assert agent.jobs == 2
    agent.script = answer
    state = await graph.ainvoke(question("Once more?"), thread())
    assert texts(state)[-1] == "Answer to: Once more?"


async def test_a_run_that_ended_before_its_first_checkpoint_does_not_wedge_the_thread() -> None:
    """The turn is in the ledger and nothing is in the state: LangGraph refused, or the process died."""
    agent = ScriptedAgent()
    now = [1_000.0]
    graph = supervisor(agent, time=instant(lambda: now[0]))
    with pytest.raises(ValueError, match="recursion_limit"):
        await graph.ainvoke(question("Lost"), {**thread(), "recursion_limit": 0})
    assert agent.jobs == 0
    now[0] = 9_000_000_000.0
    assert texts(await graph.ainvoke(question(), thread())) == ANSWERED


# ---- whether or not the service repeats the history


async def test_an_echoing_service_gives_the_same_thread() -> None:
    states = []
    for echo in (False, True):
        agent = ScriptedAgent(echo=echo)
        graph = supervisor(agent)
        for n in range(4):
            state = await graph.ainvoke(question(f"Q{n % 2}"), thread())
        states.append(texts(state))
        assert agent.jobs == 4
    assert states[0] == states[1]


async def test_a_message_that_says_the_same_is_told_apart_from_its_echo() -> None:
    """A model may give the same answer twice."""
    for echo in (False, True):
        agent = ScriptedAgent(lambda items, number: [message("Yes.")], echo=echo)
        graph = supervisor(agent)
        await graph.ainvoke(question("One?"), thread())
        state = await graph.ainvoke(question("Two?"), thread())
        assert texts(state) == ["One?", "Yes.", "Two?", "Yes."]
