"""Approvals: asked once, answered in part or at once, decided once, and told to the service as decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from databricks_supervisor.approvals.decisions import record_decision
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import TooManyRoundsError
from databricks_supervisor.state import Decision
from tests.support.agent_chat_ui import NO, YES, is_drawn_by_agent_chat_ui
from tests.support.compiled_graphs import WEB, latest_turn, ledger_of, supervisor
from tests.support.scripted_agent import (
    Item,
    ScriptedAgent,
    approval,
    first_asks,
    message,
    question,
    texts,
    thread,
)

TWO = (approval("a1", q="x"), approval("a2"))


def web_supervisor(agent: ScriptedAgent, **settings: Any) -> CompiledSupervisorGraph:
    """One with a hosted tool that may need approvals."""
    return supervisor(agent, tools=[WEB], **settings)


def pending(state: Any) -> Any:
    (interrupt,) = state["__interrupt__"]
    return interrupt.value


def decided_by(state: Any) -> dict[str, str]:
    return {
        m.id.rpartition(":")[2]: m.additional_kwargs["decided_by"]
        for m in state["messages"]
        if ":decision:" in m.id
    }


# ---- the follow-up


async def test_the_follow_up_is_the_conversation_the_requests_and_an_answer_to_each() -> None:
    agent = ScriptedAgent(first_asks(*TWO))
    graph = web_supervisor(agent)
    await graph.ainvoke(question(), thread())
    state = await graph.ainvoke(Command(resume={"decisions": [YES, NO]}), thread())
    user, *rest = agent.inputs[-1]
    assert user == agent.inputs[0][0]
    assert rest == [
        TWO[0],
        TWO[1],
        {"type": "mcp_approval_response", "id": "a1", "approval_request_id": "a1", "approve": True},
        {
            "type": "mcp_approval_response",
            "id": "a2",
            "approval_request_id": "a2",
            "approve": False,
            "reason": "too dear",
        },
    ]
    assert agent.bodies[0] | {"input": 0} == agent.bodies[1] | {"input": 0}
    assert texts(state)[-1] == "a1: done; a2: refused (too dear)"
    assert decided_by(state) == {"a1": "person", "a2": "person"}
    assert len(set(agent.keys)) == 2


async def test_an_approval_after_an_approval_is_another_round() -> None:
    def script(items: list[Item], number: int) -> list[Item]:
        return [approval(f"a{number}")] if number < 4 else [message("Done.")]

    agent = ScriptedAgent(script)
    graph = web_supervisor(agent)
    await graph.ainvoke(question(), thread())
    for n in range(1, 4):
        state = await graph.ainvoke(Command(resume={f"a{n}": n != 2}), thread())
    assert agent.jobs == 4
    assert agent.all_decisions() == [("a1", True), ("a2", False), ("a3", True)]
    assert texts(state)[-1] == "Done."


@pytest.mark.parametrize("echo", [False, True])
async def test_the_same_id_in_another_round_is_asked_again(echo: bool) -> None:
    """Services may number their calls anew in each response."""

    def script(items: list[Item], number: int) -> list[Item]:
        return [approval("a1", q=number)] if number < 3 else [message("Done.")]

    agent = ScriptedAgent(script, echo=echo)
    graph = web_supervisor(agent)
    await graph.ainvoke(question(), thread())
    state = await graph.ainvoke(Command(resume=True), thread())
    assert pending(state)["action_requests"][0]["args"] == {"q": 2}
    await graph.ainvoke(Command(resume=False), thread())
    assert agent.jobs == 3
    assert agent.decisions() == {"a1": False}


async def test_ids_of_any_length_are_answered_by_the_same_cut_id() -> None:
    long = "call_" + "x" * 186
    agent = ScriptedAgent(first_asks(approval(long), approval("a2")))
    graph = web_supervisor(agent)
    state = await graph.ainvoke(question(), thread())
    assert pending(state)["ids"] == [long, "a2"]
    state = await graph.ainvoke(Command(resume={long: False, "a2": True}), thread())
    assert agent.decisions() == {long[:64]: False, "a2": True}
    sent = [item for item in agent.inputs[-1] if item["type"].startswith("mcp_approval")]
    assert {item["id"] for item in sent} == {long[:64], "a2"}
    assert all(len(item["id"]) <= 64 for item in sent)


async def test_rounds_without_end_are_stopped_and_the_thread_goes_on() -> None:
    agent = ScriptedAgent(lambda items, number: [approval(f"a{number}")])
    graph = web_supervisor(agent, max_rounds=3)
    await graph.ainvoke(question(), thread())
    for n in (1, 2):
        await graph.ainvoke(Command(resume={f"a{n}": True}), thread())
    with pytest.raises(TooManyRoundsError, match="max_rounds"):
        await graph.ainvoke(Command(resume={"a3": True}), thread())
    assert agent.jobs == 3
    agent.script = lambda items, number: [message("Hello again.")]
    state = await graph.ainvoke(question("And now?"), thread())
    assert texts(state)[-1] == "Hello again."
    # An approval whose follow-up was never sent has had no effect, and must not get one later.
    assert agent.decisions() == {}
    assert set(agent.outputs()) == {"a1", "a2", "a3"}


# ---- what is asked


async def test_every_kind_of_interrupt_is_one_that_today_s_clients_draw() -> None:
    agent = ScriptedAgent(first_asks(*TWO), fail_create=[500])
    graph = web_supervisor(agent)
    state = await graph.ainvoke(question(), thread())
    assert pending(state)["kind"] == "repeat_submission"
    assert pending(state)["action_requests"][0]["name"] == "resubmit_job"
    assert is_drawn_by_agent_chat_ui(pending(state))
    state = await graph.ainvoke(Command(resume=True), thread())
    assert pending(state)["kind"] == "mcp_approval"
    assert is_drawn_by_agent_chat_ui(pending(state))
    assert pending(state)["response_id"] == (await graph.aget_state(thread())).values["job"]["response_id"]


async def test_the_interrupt_s_schema_takes_exactly_what_is_pending() -> None:
    agent = ScriptedAgent(first_asks(*TWO))
    graph = web_supervisor(agent)
    state = await graph.ainvoke(question(), thread())
    schema = state["__interrupt__"][0].response_schema
    assert schema == (await graph.aget_state(thread())).interrupts[0].response_schema
    jsonschema.validate({"a1": True}, schema)
    state = await graph.ainvoke(Command(resume={"a1": True}), thread())
    schema = state["__interrupt__"][0].response_schema
    jsonschema.validate(True, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"a1": True}, schema)


# ---- answers


@pytest.mark.parametrize(
    "bad",
    [
        {"decisions": [YES]},
        {"decisions": [YES, YES, YES]},
        {"decisions": [YES, {"type": "edit"}]},
        {"a1": "yes"},
        {"a9": True},
        {"a1": True, "a9": True},
        True,
        "approve",
        [True, True],
        {},
        0,
    ],
    ids=repr,
)
async def test_an_answer_that_is_not_understood_approves_nothing_and_is_asked_again(bad: Any) -> None:
    agent = ScriptedAgent(first_asks(*TWO))
    graph = web_supervisor(agent)
    first = await graph.ainvoke(question(), thread())
    if bad == {}:
        given: Any = {first["__interrupt__"][0].id: {}}  # LangGraph refuses an empty map itself.
    else:
        given = bad
    state = await graph.ainvoke(Command(resume=given), thread())
    assert agent.jobs == 1
    assert pending(state)["ids"] == ["a1", "a2"]
    assert "Nothing was approved" in pending(state)["error"]
    assert (await graph.aget_state(thread())).values["job"].get("decisions", {}) == {}
    state = await graph.ainvoke(Command(resume={"a1": False}), thread())
    assert "error" not in pending(state)
    await graph.ainvoke(Command(resume={"a2": True}), thread())
    assert agent.decisions() == {"a1": False, "a2": True}


async def test_an_answer_by_the_interrupt_s_id_is_the_same_answer() -> None:
    agent = ScriptedAgent(first_asks(*TWO))
    graph = web_supervisor(agent)
    state = await graph.ainvoke(question(), thread())
    id = state["__interrupt__"][0].id
    await graph.ainvoke(Command(resume={id: {"decisions": [YES, NO]}}), thread())
    assert agent.decisions() == {"a1": True, "a2": False}


async def test_an_answer_to_what_was_answered_before_is_refused() -> None:
    agent = ScriptedAgent(first_asks(*TWO))
    graph = web_supervisor(agent)
    await graph.ainvoke(question(), thread())
    await graph.ainvoke(Command(resume={"a1": False}), thread())
    state = await graph.ainvoke(Command(resume={"a1": True}), thread())
    assert "a1" in pending(state)["error"]
    await graph.ainvoke(Command(resume=True), thread())
    assert agent.decisions() == {"a1": False, "a2": True}


@pytest.mark.parametrize("caller", ["sync", "async"])
async def test_parts_of_an_answer_may_come_in_any_order_from_either_caller(caller: str) -> None:
    agent = ScriptedAgent(first_asks(*TWO, approval("a3")))
    graph = web_supervisor(agent)
    await graph.ainvoke(question(), thread())
    for id in ("a3", "a1", "a2"):
        assert agent.jobs == 1
        if caller == "sync":
            await asyncio.to_thread(graph.invoke, Command(resume={id: id != "a1"}), thread())
        else:
            await graph.ainvoke(Command(resume={id: id != "a1"}), thread())
    assert agent.jobs == 2
    assert agent.decisions() == {"a1": False, "a2": True, "a3": True}


@asynccontextmanager
async def opened(agent: ScriptedAgent, path: Path) -> AsyncIterator[CompiledSupervisorGraph]:
    """A graph of a process of its own, on the same file."""
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        graph = agent.graph(tools=[WEB]).compile(checkpointer=saver)
        yield graph
        await (await graph.parts.ledgers.resolve(saver)).aclose()


async def test_parts_of_an_answer_may_come_to_different_processes(tmp_path: Path) -> None:
    agent = ScriptedAgent(first_asks(*TWO, approval("a3")))
    path = tmp_path / "c.sqlite"
    async with opened(agent, path) as graph:
        await graph.ainvoke(question(), thread())
    for answer in ({"a2": NO}, {"a9": True}, {"a1": True}, {"a3": True}):
        async with opened(agent, path) as graph:
            state = await graph.ainvoke(Command(resume=answer), thread())
    assert agent.jobs == 2
    assert agent.all_decisions() == [("a1", True), ("a2", False), ("a3", True)]
    assert texts(state)[-1] == "a1: done; a2: refused (too dear); a3: done"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_of_approve_and_deny_at_once_one_is_stored_and_the_same_one_is_posted(
    kind: str, tmp_path: Path
) -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    if kind == "memory":
        saver = InMemorySaver()
        graphs = [agent.graph(tools=[WEB]).compile(checkpointer=saver) for _ in range(2)]
        for n in range(20):
            await approve_and_deny(agent, graphs, n)
    else:
        path = tmp_path / "c.sqlite"
        async with opened(agent, path) as one, opened(agent, path) as other:
            for n in range(20):
                await approve_and_deny(agent, [one, other], n)


async def approve_and_deny(agent: ScriptedAgent, graphs: list[CompiledSupervisorGraph], n: int) -> None:
    config = thread(f"t{n}")
    before = agent.jobs
    await graphs[0].ainvoke(question(), config)
    answers = [True, False] if n % 2 else [False, True]
    await asyncio.gather(
        *(g.ainvoke(Command(resume=a), config) for g, a in zip(graphs, answers, strict=True))
    )
    assert agent.jobs == before + 2
    (posted,) = agent.decisions().values()
    state = (await graphs[0].aget_state(config)).values
    stored = [m.text for m in state["messages"] if ":decision:" in m.id]
    assert stored == ["Approved: a1" if posted else "Refused: a1"]
    ledger = await graphs[0].parts.ledgers.resolve(graphs[0].checkpointer)  # type: ignore[arg-type]
    turn = await ledger.latest_turn(config["configurable"]["thread_id"], "")
    assert turn is not None
    (recorded,) = [e for e in await ledger.effects(turn.turn_id) if e.key.kind == "decision"]
    assert recorded.outcome is not None
    assert recorded.outcome["approve"] is posted


async def somebody_refuses(graph: CompiledSupervisorGraph) -> None:
    """Another process records that a1 is refused."""
    ledger = await ledger_of(graph)
    turn = await latest_turn(graph)
    await record_decision(ledger, turn.turn_id, (0, "a1"), Decision(approve=False, by="person"))


async def test_who_comes_second_is_told_what_stands() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    graph = web_supervisor(agent)
    await graph.ainvoke(question(), thread())
    await somebody_refuses(graph)
    events = [
        event
        async for event in graph.astream(Command(resume=True), thread(), stream_mode="custom")
        if event["type"] == "supervisor.decision_conflict"
    ]
    assert [(e["id"], e["stands"]) for e in events] == [("a1", "refused")]
    assert agent.jobs == 2
    assert agent.decisions() == {"a1": False}


async def test_answers_that_contradict_each_other_do_not_mix(tmp_path: Path) -> None:
    agent = ScriptedAgent(first_asks(approval("a1"), approval("a2")))
    path = tmp_path / "c.sqlite"
    async with opened(agent, path) as one, opened(agent, path) as other:
        for number in range(20):
            config = thread(f"t{number}")
            await one.ainvoke(question(), config)
            answers = [{"a1": True, "a2": False}, {"a1": False, "a2": True}]
            await asyncio.gather(
                *(g.ainvoke(Command(resume=a), config) for g, a in zip([one, other], answers, strict=True))
            )
            assert agent.decisions() in answers
            assert not (await one.aget_state(config)).next


async def test_an_answer_that_is_contradicted_goes_no_further() -> None:
    agent = ScriptedAgent(first_asks(approval("a1"), approval("a2")))
    graph = web_supervisor(agent)
    await graph.ainvoke(question(), thread())
    await somebody_refuses(graph)
    asked = await graph.ainvoke(Command(resume={"a1": True, "a2": True}), thread())
    assert asked["__interrupt__"][0].value["ids"] == ["a2"]
    await graph.ainvoke(Command(resume={"a2": False}), thread())
    assert agent.decisions() == {"a1": False, "a2": False}


# ---- policy


@pytest.mark.parametrize(
    ("policy", "asks"),
    [
        ("always", ["search", "send", "read"]),
        ("never", []),
        ({"never": {"tool_names": ["search"]}}, ["send", "read"]),
        ({"always": {"tool_names": ["search"]}}, ["search", "send", "read"]),
        ({"web": "never"}, ["send", "read"]),
        ({"web": "never", "*": "always"}, ["send", "read"]),
        ({"mail": "always", "*": "never"}, ["send", "read"]),
        ({"mail": {"never": {"tool_names": ["read"]}}, "*": "never"}, ["send"]),
    ],
    ids=repr,
)
async def test_the_policy_says_who_decides(policy: Any, asks: list[str]) -> None:
    requests = [
        approval("r1", "search", "web"),
        approval("r2", "send", "mail"),
        approval("r3", "read", "mail"),
    ]
    agent = ScriptedAgent(first_asks(*requests))
    graph = web_supervisor(agent, require_approval=policy)
    state = await graph.ainvoke(question(), thread())
    if asks:
        assert [r["name"] for r in pending(state)["action_requests"]] == asks
        answer = {"decisions": [{"type": "reject"}] * len(asks)}
        state = await graph.ainvoke(Command(resume=answer), thread())
    assert agent.jobs == 2
    names = {"r1": "search", "r2": "send", "r3": "read"}
    assert agent.decisions() == {id: name not in asks for id, name in names.items()}
    assert decided_by(state) == {id: "person" if name in asks else "policy" for id, name in names.items()}


async def test_a_run_s_context_can_change_the_policy() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    graph = web_supervisor(agent)
    state = await graph.ainvoke(question(), thread(), context={"require_approval": "never"})
    assert decided_by(state) == {"a1": "policy"}


async def test_asking_about_a_repeat_is_never_answered_by_policy() -> None:
    agent = ScriptedAgent(fail_create=[500])
    graph = web_supervisor(agent, require_approval="never")
    state = await graph.ainvoke(question(), thread())
    assert pending(state)["kind"] == "repeat_submission"
