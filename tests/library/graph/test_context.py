"""What one run, or one assistant in Studio, may set."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import ValidationError
from typing_extensions import TypedDict

from databricks_supervisor import SupervisorContext, create_supervisor_graph
from databricks_supervisor.errors import ConfigurationError
from tests.support.compiled_graphs import ANSWERED, WEB, supervisor
from tests.support.graph_harness import harness
from tests.support.scripted_agent import ScriptedAgent, question, texts, thread
from tests.support.scripted_service import message, response


async def test_a_run_may_have_a_model_instructions_and_identity_of_its_own() -> None:
    async with harness(instructions="Be kind") as h:
        await h.ask(context={"model": "other", "instructions": "Be brief", "identity": "ada"})
        await h.ask("And now?")
    first, second = (request.body for request in h.service.posts)
    assert (first["model"], first["instructions"]) == ("other", "Be brief")
    assert (second["model"], second["instructions"]) == ("m", "Be kind")
    assert h.identities == ["ada", None]


async def test_a_run_may_have_a_cadence_of_its_own() -> None:
    running = [response("in_progress")] * 3
    async with harness(retrieves=[*running, response("completed", message("42"))]) as h:
        await h.ask(context=SupervisorContext(polling=7))
    assert h.time.elapsed == 1 + 3 * 7


@pytest.mark.parametrize(
    ("context", "field"),
    [
        ({"polling": "fast"}, "polling"),
        ({"model": 5}, "model"),
        ({"require_approval": "maybe"}, "require_approval"),
    ],
)
async def test_a_context_that_cannot_be_read_is_refused_by_name(context: dict[str, Any], field: str) -> None:
    async with harness() as h:
        with pytest.raises(ConfigurationError, match=rf"context\.{field}.*Nothing was submitted"):
            await h.ask(context=context)
        assert h.service.requests == []


async def test_a_context_that_cannot_work_is_refused() -> None:
    async with harness() as h:
        with pytest.raises(ConfigurationError, match="polling must be"):
            await h.ask(context={"polling": -2})
        assert h.service.requests == []


async def test_what_the_context_does_not_know_is_ignored() -> None:
    async with harness() as h:
        await h.ask(context={"thread_id": "x", "langgraph_auth_user": {"identity": "ada"}})
    assert h.identities == [None]


def test_the_schema_is_json_and_describes_every_field() -> None:
    schema = create_supervisor_graph(model="m").compile().get_context_jsonschema()
    assert schema is not None
    json.dumps(schema)
    assert set(schema["properties"]) == {"model", "instructions", "polling", "require_approval", "identity"}
    assert all(field["description"] for field in schema["properties"].values())


@pytest.mark.parametrize(
    "policy",
    [
        "always",
        "never",
        {"web": "never"},
        {"web": "never", "*": "always"},
        {"never": {"tool_names": ["search"]}},
        {"web": {"never": {"tool_names": ["search"]}}},
    ],
)
def test_a_policy_arrives_as_it_was_given(policy: Any) -> None:
    assert SupervisorContext(require_approval=policy).require_approval == policy
    again = SupervisorContext.model_validate_json(
        SupervisorContext(require_approval=policy).model_dump_json()
    )
    assert again.require_approval == policy


def test_a_context_is_frozen() -> None:
    with pytest.raises(ValidationError):
        SupervisorContext().model = "m"  # type: ignore[misc]


def test_overrides_are_by_field_name() -> None:
    assert SupervisorContext(model="m").overrides() == {
        "model": "m",
        "instructions": None,
        "polling": None,
        "require_approval": None,
        "identity": None,
    }


async def test_a_context_overrides_what_the_graph_was_built_with() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent, instructions="Be brief.")
    await graph.ainvoke(question(), thread("a"), context={"model": "other"})
    await graph.ainvoke(
        question(), thread("b"), context=SupervisorContext(model="third", instructions="Rhyme.")
    )
    await asyncio.to_thread(graph.invoke, question(), thread("c"), context={"model": "fourth"})
    await graph.ainvoke(question(), thread("d"))
    assert [(b["model"], b["instructions"]) for b in agent.bodies] == [
        ("other", "Be brief."),
        ("third", "Rhyme."),
        ("fourth", "Be brief."),
        ("m", "Be brief."),
    ]


@pytest.mark.parametrize(
    ("context", "where"),
    [
        ({"polling": "often"}, "polling"),
        ({"polling": 0}, "polling"),
        ({"polling": -1.0}, "polling"),
        ({"polling": float("nan")}, "polling"),
        ({"model": " "}, "model"),
        ({"model": 7}, "model"),
        ({"require_approval": "sometimes"}, "require_approval"),
        ({"require_approval": {"web": "sometimes"}}, "require_approval"),
        ({"identity": ["a"]}, "identity"),
        (7, "context"),
        ("text", "context"),
    ],
    ids=repr,
)
async def test_a_context_that_cannot_work_is_refused_before_anything_is_sent(
    context: Any, where: str
) -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    with pytest.raises(ConfigurationError, match=where):
        await graph.ainvoke(question(), thread(), context=context)
    assert agent.jobs == 0
    assert (await graph.aget_state(thread())).created_at is None


async def test_what_a_context_has_beside_is_ignored_and_is_no_setting() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    state = await graph.ainvoke(question(), thread(), context={"tools": [], "on_busy": "cancel", "x": 1})
    assert texts(state) == ANSWERED


async def test_the_context_of_an_approval_policy_can_open_the_need_for_a_checkpointer() -> None:
    agent = ScriptedAgent()
    graph = agent.graph(tools=[WEB], require_approval="never").compile()
    with pytest.raises(ConfigurationError, match="checkpointer"):
        await graph.ainvoke(question(), context={"require_approval": "always"})


async def test_the_identity_names_the_client() -> None:
    agent = ScriptedAgent()
    named: list[str | None] = []

    def factory(identity: str | None) -> Any:
        named.append(identity)
        return agent.client()

    graph = supervisor(agent, client_factory=factory)
    await graph.ainvoke(question(), thread("a"), context={"identity": "ada"})
    await graph.ainvoke(question(), thread("b"), context={"identity": "ada"})
    await graph.ainvoke(question(), thread("c"))
    assert named == ["ada", None]


async def test_no_setting_of_a_context_could_hold_a_secret() -> None:
    assert set(SupervisorContext.model_fields) == {
        "model",
        "instructions",
        "polling",
        "require_approval",
        "identity",
    }


async def test_nothing_that_a_run_hands_on_reaches_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    agent = ScriptedAgent()

    def factory(identity: str | None) -> Any:
        client = agent.client()
        client.api_key = "sk-very-secret-key"
        return client

    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        graph = agent.graph(client_factory=factory).compile(checkpointer=saver)
        await graph.ainvoke(question(), thread(), context={"identity": "ada"})
        await (await graph.parts.ledgers.resolve(saver)).aclose()
        metadata = [checkpoint.metadata async for checkpoint in saver.alist(thread())]
    assert all("supervisor_run" not in json.dumps(entry, default=str) for entry in metadata)
    assert b"sk-very-secret-key" not in everything_in(tmp_path)


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_a_context_of_the_parent_s_own_is_not_taken_for_ours() -> None:
    class Mine(TypedDict):
        model: str

    agent = ScriptedAgent()
    parent = StateGraph(MessagesState, context_schema=Mine)
    parent.add_node("ask", agent.graph().compile())
    parent.add_edge(START, "ask")
    graph = parent.compile(checkpointer=InMemorySaver())
    await graph.ainvoke(question(), thread(), context={"model": "the parent's"})
    assert agent.bodies[0]["model"] == "m"


async def test_a_parent_can_hand_on_a_supervisor_context() -> None:
    agent = ScriptedAgent()
    parent = StateGraph(MessagesState, context_schema=SupervisorContext)
    parent.add_node("ask", agent.graph().compile())
    parent.add_edge(START, "ask")
    graph = parent.compile(checkpointer=InMemorySaver())
    await graph.ainvoke(question(), thread(), context=SupervisorContext(model="other"))
    assert agent.bodies[0]["model"] == "other"
