"""Where a run enters: the same place when it enters there again, another one for every branch."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest
from databricks_supervisor.position import config_of_call, position_of, step_of, task_namespace
from langchain_core.runnables import RunnableConfig
from langgraph._internal._scratchpad import PregelScratchpad
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send


def config(
    namespace: str = "ask:1f0c", *, path: tuple[Any, ...] = (), step: int | None = 3, calls: int = 0
) -> RunnableConfig:
    counter = itertools.count(calls)
    scratchpad = PregelScratchpad(
        step=0,
        stop=1,
        call_counter=lambda: 0,
        interrupt_counter=lambda: 0,
        get_null_resume=lambda consume: None,
        resume=[],
        subgraph_counter=_Counter(counter),
    )
    return {
        "configurable": {
            "checkpoint_ns": namespace,
            "__pregel_task_id": "1f0c",
            "__pregel_scratchpad": scratchpad,
        },
        "metadata": {"langgraph_path": path, "langgraph_step": step},
    }


class _Counter:
    """As LangGraph's: a bound method of a count."""

    def __init__(self, count: Any) -> None:
        self._counter = count.__next__

    def __call__(self) -> int:
        return int(self._counter())


@pytest.mark.parametrize(
    ("given", "position"),
    [
        ({}, ""),
        ({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, ""),
        (config("ask:1f0c", path=("__pregel_pull", "ask")), "ask"),
        (config("ask:1f0c", path=("__pregel_push", 3, False)), "ask#3"),
        (config("research:1f0c|ask:2d1e"), "research|ask"),
        (config("research:1f0c|ask:2d1e", calls=1), "research|ask|1"),
        (config("tools:1f0c", path=("__pregel_push", 0, False), calls=2), "tools|2#0"),
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


def test_looking_does_not_take_the_next_number() -> None:
    given = config(calls=1)
    assert [task_namespace(given) for _ in range(3)] == ["ask:1f0c|1"] * 3


@pytest.mark.parametrize("counter", [lambda: 0, None, object()])
def test_a_counter_of_another_kind_counts_nothing(counter: Any) -> None:
    given = config()
    scratchpad = given["configurable"]["__pregel_scratchpad"]
    given["configurable"]["__pregel_scratchpad"] = replace(scratchpad, subgraph_counter=counter)
    assert task_namespace(given) == "ask:1f0c"


def test_calls_of_one_task_have_places_of_their_own() -> None:
    places = [config_of_call(config(calls=n), "ask", f"call_{n}") for n in range(3)]
    assert len({position_of(place) for place in places}) == 3
    assert len({task_namespace(place) for place in places}) == 3
    again = config_of_call(config("ask:1f0c", calls=2), "ask", "call_0")
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


async def test_langgraph_counts_the_graphs_of_a_task_where_it_is_looked_for() -> None:
    inner = StateGraph(MessagesState)
    inner.add_node("nothing", lambda state: {})
    inner.add_edge(START, "nothing")
    called = inner.compile()
    seen: list[str] = []

    async def node(state: Any, config: RunnableConfig) -> dict[str, Any]:
        for _ in range(3):
            seen.append(position_of(config))
            await called.ainvoke({"messages": []})
        await asyncio.gather(*(called.ainvoke({"messages": []}) for _ in range(2)))
        seen.append(position_of(config))
        return {}

    parent = StateGraph(MessagesState)
    parent.add_node("node", node)
    parent.add_edge(START, "node")
    await parent.compile().ainvoke({"messages": []})
    assert seen == ["node", "node|1", "node|2", "node|5"]
