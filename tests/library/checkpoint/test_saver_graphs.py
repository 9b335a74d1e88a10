"""Graphs on a checkpointer that keeps each message once."""

from __future__ import annotations

import operator
import threading
from collections.abc import Sequence
from functools import reduce
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from databricks_supervisor import DeduplicatingSaver
from tests.library.checkpoint.saver_places import (
    Place,
    State,
    checkpoint_of,
    conversation,
    graph_of,
    put,
    read,
)
from tests.support.graph_harness import CONFIG


async def test_history_fork_and_update_of_a_long_thread(place: Place) -> None:
    async def answer(state: State) -> Any:
        return {"messages": [AIMessage(f"to {state['messages'][-1].text}")]}

    async with place.opened() as saver:
        graph = graph_of(saver, answer)
        for number in range(6):
            await graph.ainvoke({"messages": [HumanMessage(f"{number}?")]}, CONFIG)
        history = [state async for state in graph.aget_state_history(CONFIG)]
        ended = [state for state in history if not state.next]
        assert [len(state.values["messages"]) for state in ended] == [12, 10, 8, 6, 4, 2]
        fork = await graph.aupdate_state(
            ended[1].config, {"messages": [HumanMessage("other?")]}, as_node=START
        )
        forked = await graph.ainvoke(None, fork)
        assert [each.text for each in forked["messages"]][8:] == ["4?", "to 4?", "other?", "to other?"]
        again = await graph.aget_state(ended[0].config)
        assert [each.text for each in again.values["messages"]][10:] == ["5?", "to 5?"]
        removed = await graph.aupdate_state(
            CONFIG, {"messages": [RemoveMessage(id=forked["messages"][0].id)]}
        )
        assert (await graph.aget_state(removed)).values["messages"] == forked["messages"][1:]


async def test_an_interrupt_on_a_long_thread_is_resumed_by_another_process(place: Place) -> None:
    def ask(state: State) -> Any:
        return {"messages": [AIMessage(interrupt(len(state["messages"])))]}

    async with place.opened() as first:
        asked = await graph_of(first, ask).ainvoke({"messages": conversation(70)}, CONFIG)
    assert asked["__interrupt__"][0].value == 70
    async with place.opened() as second:
        done = await graph_of(second, ask).ainvoke(Command(resume="yes"), CONFIG)
        assert [each.text for each in done["messages"]][69:] == [asked["messages"][-1].text, "yes"]


def test_sync_graphs_use_it_from_any_thread(place: Place) -> None:
    with place.opened_sync() as saver:
        graph = graph_of(saver, lambda state: {"messages": [AIMessage("more")]})
        results: list[Any] = []

        def ask(thread: str) -> None:
            config = {"configurable": {"thread_id": thread}}
            results.append(graph.invoke({"messages": conversation()}, config, durability="sync"))
            assert graph.get_state(config).values == results[-1] or len(results) > 1

        threads = [threading.Thread(target=ask, args=(f"t{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(result["messages"]) for result in results] == [11] * 4


async def test_what_a_subgraph_returns_is_not_kept_a_second_time(sqlite_place: Place) -> None:
    async with sqlite_place.opened() as saver:
        child = graph_of(None, lambda state: {"messages": [AIMessage("more", id="more")]})  # type: ignore[arg-type]
        graph = graph_of(saver, child)
        await graph.aupdate_state(CONFIG, {"messages": conversation(200)}, as_node="node0")
        before = sqlite_place.size()
        await graph.ainvoke({"messages": [HumanMessage("?", id="q")]}, CONFIG)
        assert sqlite_place.size() - before < 30_000  # the conversation alone has 100,000
        assert len((await graph.aget_state(CONFIG)).values["messages"]) == 202


def add_all(state: Any, writes: Sequence[Any]) -> Any:
    return reduce(operator.add, writes, state)


class Deltas(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(add_all)]


async def test_delta_channels_work_as_without_it(place: Place) -> None:
    messages = conversation()
    async with place.opened() as saver:
        graph = graph_of(saver, lambda state: {"messages": messages}, state=Deltas)
        await graph.ainvoke({"messages": messages}, CONFIG)
        assert place.kept() == 10
        assert (await graph.aget_state(CONFIG)).values["messages"] == messages * 2


async def test_a_thread_that_turns_to_delta_channels_keeps_what_it_had(place: Place) -> None:
    messages = conversation()
    async with place.opened() as saver:
        await graph_of(saver, lambda state: {}).ainvoke({"messages": messages}, CONFIG)
        graph = graph_of(saver, lambda state: {"messages": messages[:2]}, state=Deltas)
        await graph.ainvoke({"messages": messages[:1]}, CONFIG)
        assert (await graph.aget_state(CONFIG)).values["messages"] == [*messages, messages[0], *messages[:2]]


async def test_an_allowlist_reaches_the_wrapped_checkpointer(sqlite_place: Place) -> None:
    strict = JsonPlusSerializer(allowed_msgpack_modules=[("some", "Type")])
    async with sqlite_place.opened(serde=strict) as saver:
        clone = saver.with_allowlist([("another", "Type")])
        assert isinstance(clone, DeduplicatingSaver)
        assert clone is not saver
        assert clone.inner is not saver.inner
        assert clone.serde is clone.inner.serde is not saver.serde
        await put(clone, checkpoint_of(messages := conversation()))
        assert await read(saver) == messages
