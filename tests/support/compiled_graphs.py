"""Compiled graphs in front of a scripted service, and what tests of whole graphs do with them again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send

from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.ledger import Ledger, Turn
from tests.support.scripted_agent import Item, Plan, ScriptedAgent, answer, question, thread, until

WEB = {"type": "uc_connection", "uc_connection": {"name": "you_dot_com"}}
"""A hosted tool whose calls may need an approval."""

ANSWERED = ["How much?", "Answer to: How much?"]
"""The texts of a thread on which :func:`.scripted_agent.question` was asked and answered."""


def supervisor(agent: ScriptedAgent, *, saver: Any = None, **settings: Any) -> CompiledSupervisorGraph:
    """A supervisor of this service; its checkpoints are in memory unless a saver is given."""
    return agent.graph(**settings).compile(checkpointer=saver or InMemorySaver())


def parent_of(*nodes: tuple[str, Any], state: Any = MessagesState, saver: Any = None, **options: Any) -> Any:
    """A parent graph that runs these nodes one after the other."""
    graph = StateGraph(state)
    previous = START
    for name, node in nodes:
        graph.add_node(name, node, **options)
        graph.add_edge(previous, name)
        previous = name
    return graph.compile(checkpointer=saver or InMemorySaver())


def fan_out(node: Any) -> Any:
    """A parent graph that sends each part of the question, at its commas, to a node of its own."""
    graph = StateGraph(MessagesState)
    graph.add_node("plan", lambda state: {})
    graph.add_node("ask", node)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges(
        "plan",
        lambda state: [Send("ask", question(text)) for text in state["messages"][-1].text.split(",")],
        ["ask"],
    )
    return graph.compile(checkpointer=InMemorySaver())


async def ledger_of(graph: CompiledSupervisorGraph) -> Ledger:
    """The ledger that goes with the graph's checkpoints."""
    return await graph.parts.ledgers.resolve(graph.checkpointer)  # type: ignore[arg-type]


async def latest_turn(graph: CompiledSupervisorGraph, thread_id: str = "t") -> Turn:
    """The thread's latest turn, as the ledger has it."""
    turn = await (await ledger_of(graph)).latest_turn(thread_id, "")
    assert turn is not None
    return turn


def first_is_held(items: list[Item], number: int) -> Plan:
    """A script whose first job stays in progress until :meth:`.ScriptedAgent.release`."""
    return Plan(answer(items, number), held=number == 1)


async def cancel(run: asyncio.Task[Any]) -> None:
    """Cancel a run, and wait until it has ended."""
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


@asynccontextmanager
async def running(agent: ScriptedAgent, graph: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """A run that asks a question; the block begins while its job is polled, and the run is cancelled after it."""
    run = asyncio.create_task(graph.ainvoke(question(), thread()))
    await until(lambda: agent.polled > 1)
    try:
        yield run
    finally:
        await cancel(run)


class Crash(Exception):
    """What a step raises that is cut off."""


def crash_once(crashed: list[bool]) -> None:
    """Raise the first time: what a crash of this step looks like from outside."""
    if not crashed:
        crashed.append(True)
        raise Crash
