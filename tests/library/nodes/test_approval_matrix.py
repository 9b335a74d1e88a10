"""Every order of approvals and calls, approved and refused, answered in every way."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from langchain_core.tools import tool
from langgraph.types import Command

from tests.support.agent_chat_ui import NO, YES
from tests.support.compiled_graphs import WEB, supervisor
from tests.support.scripted_agent import (
    ScriptedAgent,
    approval,
    asked,
    call,
    first_asks,
    message,
    question,
    texts,
    thread,
)

ASKED = [f"a{n}" for n in range(1, 4)]
CALLED = ["c1", "c2"]


def scenarios() -> list[tuple[tuple[str, ...], tuple[bool, ...], str, bool]]:
    """Every order of up to three approvals and two calls, each approved or refused, in three ways."""
    found = []
    for approvals, calls in itertools.product(range(4), range(3)):
        kinds = ["a"] * approvals + ["c"] * calls
        for order in sorted(set(itertools.permutations(kinds))):
            numbers = {"a": iter(ASKED), "c": iter(CALLED)}
            ids = tuple(next(numbers[kind]) for kind in order)
            for verdicts in itertools.product([True, False], repeat=approvals):
                for way in ("at once", "one by one", "backwards") if approvals else ("at once",):
                    for echo in (False, True):
                        found.append((ids, verdicts, way, echo))
    return found


@tool
async def look_up(id: str) -> str:
    """Look it up."""
    return f"looked up {id}"


async def play(ids: tuple[str, ...], verdicts: tuple[bool, ...], way: str, echo: bool) -> None:
    requests = [approval(i, n=i) if i in ASKED else call(i, "look_up", {"id": i}) for i in ids]
    wanted = dict(zip(ASKED, verdicts, strict=False))
    agent = ScriptedAgent(lambda items, number: [message("Hello.")], echo=echo, direct=True)
    graph = supervisor(agent, tools=[WEB, look_up])
    await graph.ainvoke(question("Hi."), thread())
    agent.script = first_asks(*requests) if requests else agent.script
    state = await graph.ainvoke(question("Go."), thread())
    order = [id for id in ids if id in ASKED]
    parts: list[Any] = []
    if way == "at once" and order:
        parts = [{"decisions": [YES if wanted[id] else NO for id in order]}]
    elif way == "one by one":
        parts = [{id: wanted[id]} for id in order]
    elif way == "backwards":
        parts = [{id: YES if wanted[id] else NO} for id in reversed(order)]
    for part in parts:
        assert agent.jobs == 2
        state = await graph.ainvoke(Command(resume=part), thread())
    assert "__interrupt__" not in state
    assert agent.jobs == (3 if ids else 2)
    if not ids:
        return
    assert agent.decisions() == wanted
    assert agent.outputs() == {id: f"looked up {id}" for id in ids if id in CALLED}
    starts = [i.get("call_id", i.get("id")) for i in agent.inputs[-1] if i["type"] in STARTS]
    assert starts == list(ids)
    said = texts(state, "ai")[-1]
    assert all(f"{id}: looked up {id}" in said for id in ids if id in CALLED)
    assert all(f"{id}: {'done' if wanted[id] else 'refused'}" in said for id in order)
    history = texts(state)
    agent.script = lambda items, number: [message("You are welcome.")]
    state = await graph.ainvoke(question("Thanks."), thread())
    assert texts(state)[: len(history)] == history
    assert asked(agent.inputs[-1]) == "Thanks."
    assert agent.jobs == 4
    # The next turn has a call and its output for each, and no approval that was carried out.
    assert not agent.decisions()
    assert sorted(agent.outputs()) == sorted(ids)


STARTS = ("function_call", "mcp_approval_request")
MATRIX = scenarios()


@pytest.mark.parametrize("part", range(4))
async def test_every_order_of_approvals_and_calls_is_posted_and_told_as_decided(part: int) -> None:
    """A sample; the whole with ``-m full``."""
    for scenario in MATRIX[part::72]:
        await play(*scenario)


@pytest.mark.full
@pytest.mark.parametrize("part", range(8))
async def test_the_whole_matrix(part: int) -> None:
    for scenario in MATRIX[part::8]:
        await play(*scenario)
