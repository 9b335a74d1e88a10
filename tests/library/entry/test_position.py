"""Where a run enters: the same place when it enters there again, another one for every branch."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph._internal._scratchpad import PregelScratchpad
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.pregel._algo import LazyAtomicCounter
from langgraph.runtime import ExecutionInfo, Runtime
from langgraph.types import RetryPolicy, Send

from databricks_supervisor.entry.position import (
    config_of_call,
    position_of,
    step_of,
    task_namespace,
    with_own_namespace,
)


def config(
    namespace: str = "ask:1f0c", *, path: tuple[Any, ...] = (), step: int | None = 3
) -> RunnableConfig:
    scratchpad = PregelScratchpad(
        step=0,
        stop=1,
        call_counter=lambda: 0,
        interrupt_counter=lambda: 0,
        get_null_resume=lambda consume: None,
        resume=[],
        subgraph_counter=LazyAtomicCounter(),
    )
    return {
        "configurable": {
            "checkpoint_ns": namespace,
            "__pregel_task_id": "1f0c",
            "__pregel_scratchpad": scratchpad,
        },
        "metadata": {"langgraph_path": path, "langgraph_step": step},
    }


@pytest.mark.parametrize(
    ("given", "position"),
    [
        ({}, ""),
        ({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, ""),
        (config("ask:1f0c", path=("__pregel_pull", "ask")), "ask"),
        (config("ask:1f0c", path=("__pregel_push", 3, False)), "ask#3"),
        (config("research:1f0c|ask:2d1e"), "research|ask"),
        (config("research:1f0c|ask:2d1e|1"), "research|ask|1"),
        (config("tools:1f0c|2", path=("__pregel_push", 0, False)), "tools|2#0"),
        (config("flow:1|ask:2", path=("__pregel_push", ("__pregel_pull", "flow"), 2, True)), "flow|ask#2"),
        (config("n:1|ask:2", path=("__pregel_push", ("__pregel_push", 7, False), 2, True)), "n|ask#7#2"),
    ],
)
def test_a_position_is_names_and_the_send_alone(given: RunnableConfig, position: str) -> None:
    assert position_of(given) == position


def test_the_task_id_is_not_part_of_it() -> None:
    assert position_of(config("ask:1f0c")) == position_of(config("ask:9999"))


def test_a_namespace_without_a_task_is_top_level() -> None:
    """A caller may address a subgraph's checkpoints; that is no parent that runs it."""
    given: RunnableConfig = {"configurable": {"checkpoint_ns": "ask:1f0c"}, "metadata": {"langgraph_step": 3}}
    assert (position_of(given), step_of(given), task_namespace(given)) == ("", None, "")


def test_the_step_is_the_parents() -> None:
    assert step_of(config(step=9)) == 9
    assert step_of(config(step=None)) is None
    assert step_of({"metadata": {"langgraph_step": 9}}) is None


def test_every_graph_that_a_task_calls_has_a_namespace_of_its_own() -> None:
    given = config()
    places = [with_own_namespace(given) for _ in range(3)]
    assert [task_namespace(place) for place in places] == ["ask:1f0c", "ask:1f0c|1", "ask:1f0c|2"]
    assert [position_of(place) for place in places] == ["ask", "ask|1", "ask|2"]
    # LangGraph appends nothing more.
    assert [place["configurable"]["__pregel_scratchpad"].subgraph_counter() for place in places] == [0] * 3


@pytest.mark.parametrize("others", [0, 2])
def test_a_retry_gets_the_same_places_in_the_same_order(others: int) -> None:
    """LangGraph's counter goes on counting over the attempts of a task."""
    given = config()
    attempts = []
    for attempt in (1, 2, 3):
        given["configurable"]["__pregel_runtime"] = Runtime(
            execution_info=ExecutionInfo(checkpoint_id="", checkpoint_ns="", task_id="", node_attempt=attempt)
        )
        for _ in range(others):  # other graphs that the task calls first
            given["configurable"]["__pregel_scratchpad"].subgraph_counter()
        attempts.append([position_of(with_own_namespace(given)) for _ in range(2 if attempt == 1 else 3)])
    first = ["ask", "ask|1", "ask|2"] if not others else ["ask|2", "ask|3", "ask|4"]
    assert attempts == [first[:2], first, first]


@pytest.mark.parametrize("given", [{}, {"configurable": {"thread_id": "t"}}])
def test_at_top_level_there_is_nothing_to_place(given: RunnableConfig) -> None:
    assert with_own_namespace(given) is given


def test_calls_of_one_task_have_places_of_their_own() -> None:
    places = [config_of_call(config(), "ask", f"call_{n}") for n in range(3)]
    assert len({position_of(place) for place in places}) == 3
    assert len({task_namespace(place) for place in places}) == 3
    again = config_of_call(config(), "ask", "call_0")
    assert position_of(again) == position_of(places[0])
    assert task_namespace(again) == task_namespace(places[0])


# ---- the private parts of LangGraph that it reads, as the installed version has them


async def test_langgraph_shows_what_a_position_is_made_of() -> None:
    seen: list[tuple[str, int | None, str]] = []

    async def child(state: Any, config: RunnableConfig) -> dict[str, Any]:
        seen.append((position_of(config), step_of(config), task_namespace(config).split(":")[0]))
        return {}

    parent = StateGraph(MessagesState)
    parent.add_node("child", child)
    parent.add_conditional_edges(START, lambda _: [Send("child", {"messages": []}) for _ in range(3)])
    parent.add_edge("child", END)
    await parent.compile().ainvoke({"messages": []})
    assert sorted(seen) == [("child#0", 1, "child"), ("child#1", 1, "child"), ("child#2", 1, "child")]


async def test_langgraph_links_the_steps_of_the_graphs_above() -> None:
    seen: list[tuple[str, int | None]] = []

    async def ask(state: Any, config: RunnableConfig) -> dict[str, Any]:
        seen.append((position_of(config), step_of(config)))
        return {}

    inner = StateGraph(MessagesState)
    inner.add_node("ask", ask)
    inner.add_edge(START, "ask")
    outer = StateGraph(MessagesState)
    outer.add_node("team", inner.compile())
    outer.add_node("again", inner.compile())
    outer.add_edge(START, "team")
    outer.add_edge("team", "again")
    graph = outer.compile(checkpointer=InMemorySaver())
    for _ in range(2):
        await graph.ainvoke({"messages": []}, {"configurable": {"thread_id": "t"}})
    assert [place for place, _ in seen] == ["team|ask", "again|ask"] * 2
    assert len({step for _, step in seen}) == 4
    assert all(step is not None and 0 <= step < 2**31 for _, step in seen)


async def test_langgraph_has_the_number_of_the_attempt_and_the_counter_where_they_are_looked_for() -> None:
    seen: list[list[str]] = []

    async def node(state: Any, config: RunnableConfig) -> dict[str, Any]:
        seen.append([position_of(with_own_namespace(config)) for _ in range(2)])
        if len(seen) < 3:
            raise ValueError
        return {}

    graph = StateGraph(MessagesState)
    graph.add_node(
        "node", node, retry_policy=RetryPolicy(initial_interval=0.001, jitter=False, retry_on=ValueError)
    )
    graph.add_edge(START, "node")
    await graph.compile().ainvoke({"messages": []})
    assert seen == [["node", "node|1"]] * 3


async def test_langgraph_makes_task_ids_from_what_they_are_thought_to_be_made_from() -> None:
    seen: list[str] = []

    async def ask(state: Any, config: RunnableConfig) -> dict[str, Any]:
        seen.append(position_of(config))
        return {}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    for name in ("team", "house"):
        outer = StateGraph(MessagesState)
        outer.add_node(name, graph.compile())
        sends = [Send(name, {"messages": []}) for _ in range(2)]
        outer.add_conditional_edges(START, lambda _, sends=sends: sends, [name])
        graph = outer
    await graph.compile(checkpointer=InMemorySaver()).ainvoke(
        {"messages": []}, {"configurable": {"thread_id": "t"}}
    )
    assert sorted(seen) == [f"house#{h}|team#{t}|ask" for h in range(2) for t in range(2)]
