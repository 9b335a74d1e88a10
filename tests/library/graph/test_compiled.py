"""The entry of a run: what a caller may give, what it gets, and what is the same question again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from databricks_supervisor import SupervisorContext
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import (
    ConfigurationError,
    ForeignThreadError,
    InvalidAnswerError,
    InvalidInputError,
    JobFailedError,
    NothingToResumeError,
    TurnMismatchError,
)
from tests.support.compiled_graphs import ANSWERED, WEB, cancel, supervisor
from tests.support.scripted_agent import (
    Plan,
    ScriptedAgent,
    answer,
    approval,
    first_asks,
    instant,
    message,
    question,
    texts,
    thread,
    until,
)

# ---- every way to call it


async def by_astream(graph: CompiledSupervisorGraph) -> Any:
    return [chunk async for chunk in graph.astream(question(), thread(), stream_mode="values")][-1]


async def by_stream_in_a_thread(graph: CompiledSupervisorGraph) -> Any:
    return await asyncio.to_thread(lambda: list(graph.stream(question(), thread(), stream_mode="values"))[-1])


async def by_invoke_where_a_loop_runs(graph: CompiledSupervisorGraph) -> Any:
    return graph.invoke(question(), thread())


async def by_events(graph: CompiledSupervisorGraph) -> Any:
    events = [event async for event in graph.astream_events(question(), thread(), version="v2")]
    return events[-1]["data"]["output"]


async def by_a_copy(graph: CompiledSupervisorGraph) -> Any:
    copy = graph.with_config(tags=["mine"], **thread())
    assert isinstance(copy, CompiledSupervisorGraph)
    return await copy.ainvoke(question())


async def by_abatch(graph: CompiledSupervisorGraph) -> Any:
    return (await graph.abatch([question()], [thread()]))[0]


WAYS = [
    by_astream,
    by_stream_in_a_thread,
    by_invoke_where_a_loop_runs,
    by_events,
    by_a_copy,
    by_abatch,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.removeprefix("by_"))
async def test_every_way_of_calling_submits_once_and_gives_the_answer(way: Any) -> None:
    agent = ScriptedAgent()
    state = await way(supervisor(agent))
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


async def test_what_a_caller_gets_is_the_messages_alone() -> None:
    graph = supervisor(ScriptedAgent())
    assert set(await graph.ainvoke(question(), thread("a"))) == {"messages"}
    assert set(await asyncio.to_thread(graph.invoke, question(), thread("b"))) == {"messages"}


async def test_a_batch_is_a_job_for_each_thread() -> None:
    agent = ScriptedAgent()
    configs = [thread(str(n)) for n in range(5)]
    states = await supervisor(agent).abatch([question()] * 5, configs)
    assert agent.jobs == 5
    assert [texts(state) for state in states] == [ANSWERED] * 5


@pytest.mark.parametrize(
    "messages",
    [
        "How much?",
        ["How much?"],
        [("user", "How much?")],
        [HumanMessage("How much?")],
        HumanMessage("How much?"),
        ("How much?",),
        [{"role": "user", "content": [{"type": "text", "text": "How much?"}]}],
    ],
)
async def test_messages_may_be_given_in_every_notation(messages: Any) -> None:
    agent = ScriptedAgent()
    state = await supervisor(agent).ainvoke({"messages": messages}, thread())
    assert texts(state) == ANSWERED


async def test_the_caller_s_messages_and_input_are_left_as_they_are() -> None:
    given = {"messages": [{"role": "user", "content": "How much?"}]}
    await supervisor(ScriptedAgent()).ainvoke(given, thread())
    assert given == {"messages": [{"role": "user", "content": "How much?"}]}


async def test_without_a_thread_and_a_checkpointer_every_run_is_a_job() -> None:
    agent = ScriptedAgent()
    graph = agent.graph().compile()
    states = [await graph.ainvoke(question()) for _ in range(2)]
    assert [texts(state) for state in states] == [ANSWERED] * 2
    assert agent.jobs == 2


# ---- what is no question


@pytest.mark.parametrize(
    "input",
    [
        {},
        {"messages": []},
        {"messages": None},
        {"question": "How much?"},
        "How much?",
        7,
        [],
        {"messages": 7},
        {"messages": [7]},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [RemoveMessage(id="x")]},
    ],
    ids=repr,
)
async def test_what_is_no_question_is_refused_and_nothing_changes(input: Any) -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    with pytest.raises(InvalidInputError, match="Nothing was submitted"):
        await graph.ainvoke(input, thread())
    assert agent.jobs == 0
    assert (await graph.aget_state(thread())).created_at is None
    assert texts(await graph.ainvoke(question(), thread())) == ANSWERED


@pytest.mark.parametrize("turn_id", ["", 7, ["x"]])
async def test_a_turn_id_that_is_none_is_refused(turn_id: Any) -> None:
    agent = ScriptedAgent()
    with pytest.raises(InvalidInputError, match="turn_id"):
        await supervisor(agent).ainvoke({**question(), "turn_id": turn_id}, thread())
    assert agent.jobs == 0


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


async def test_a_caller_cannot_slip_in_a_job() -> None:
    agent = ScriptedAgent()
    given = {**question(), "job": {"turn_id": "x", "response_id": "resp_stolen", "status": "completed"}}
    state = await supervisor(agent).ainvoke(given, thread())
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


# ---- resuming


async def test_nothing_to_resume_says_to_ask_again() -> None:
    graph = supervisor(ScriptedAgent())
    for given in (None, Command(resume=True), Command(resume={"a": True})):
        with pytest.raises(NothingToResumeError, match="Ask the question again"):
            await graph.ainvoke(given, thread())


async def test_resuming_with_nothing_is_no_answer() -> None:
    agent = ScriptedAgent(first_asks(approval("a1")))
    graph = supervisor(agent, tools=[WEB])
    await graph.ainvoke(question(), thread())
    with pytest.raises(InvalidAnswerError, match="no answer"):
        await graph.ainvoke(Command(resume=None), thread())
    assert agent.jobs == 1
    await graph.ainvoke(Command(resume=True), thread())
    assert agent.decisions() == {"a1": True}


async def test_resuming_a_thread_that_has_ended_changes_nothing() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await graph.ainvoke(question(), thread())
    for given in (None, Command(resume=True)):
        assert texts(await graph.ainvoke(given, thread())) == ANSWERED
    assert agent.jobs == 1


@pytest.mark.parametrize("given", ["None", "the question"])
async def test_a_run_that_was_cut_off_goes_on_with_its_job(given: str, tmp_path: Path) -> None:
    path = str(tmp_path / "c.sqlite")
    agent = ScriptedAgent(lambda items, number: Plan(answer(items, number), held=True))
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        run = asyncio.create_task(agent.graph().compile(checkpointer=saver).ainvoke(question(), thread()))
        await until(lambda: agent.polled > 1)
        await cancel(run)
    agent.release()
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        graph = agent.graph().compile(checkpointer=saver)
        state = await graph.ainvoke(None if given == "None" else question(), thread())
        await (await graph.parts.ledgers.resolve(saver)).aclose()
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


async def test_a_thread_of_another_graph_is_refused() -> None:
    class Other(TypedDict):
        value: int

    saver = InMemorySaver()
    other = StateGraph(Other)
    other.add_node("node", lambda state: {"value": 2})
    other.add_edge(START, "node")
    await other.compile(checkpointer=saver).ainvoke({"value": 1}, thread())
    agent = ScriptedAgent()
    graph = agent.graph().compile(checkpointer=saver)
    for given in (question(), None, Command(resume=True)):
        with pytest.raises(ForeignThreadError, match="another graph"):
            await graph.ainvoke(given, thread())
    assert agent.jobs == 0
    assert texts(await graph.ainvoke(question(), thread("mine"))) == ANSWERED


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


# ---- deleting a thread


@pytest.mark.parametrize("caller", ["sync", "async"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_deleted_thread_starts_anew(caller: str, kind: str, tmp_path: Path) -> None:
    agent = ScriptedAgent()

    async def use(saver: Any) -> None:
        graph = agent.graph().compile(checkpointer=saver)
        for _ in range(2):
            if caller == "sync":
                await asyncio.to_thread(graph.invoke, question(), thread())
                await asyncio.to_thread(graph.delete_thread, "t")
            else:
                await graph.ainvoke(question(), thread())
                await graph.adelete_thread("t")
            ledger = await graph.parts.ledgers.resolve(saver)
            assert await ledger.latest_turn("t", "") is None
        state = await asyncio.to_thread(graph.invoke, question(), thread())
        assert texts(state) == ANSWERED
        await ledger.aclose()

    if kind == "memory":
        await use(InMemorySaver())
    elif caller == "sync":
        with SqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as saver:
            await use(saver)
    else:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as asaver:
            await use(asaver)
    assert agent.jobs == 3


async def test_a_graph_without_a_checkpointer_has_no_thread_to_delete() -> None:
    graph = ScriptedAgent().graph().compile()
    with pytest.raises(ConfigurationError, match="no checkpointer"):
        await graph.adelete_thread("t")
    with pytest.raises(ConfigurationError, match="no checkpointer"):
        graph.delete_thread("t")


# ---- durability


class Counting(InMemorySaver):
    """Counts the checkpoints that were written before the job was submitted."""

    def __init__(self, agent: ScriptedAgent) -> None:
        super().__init__()
        self.agent = agent
        self.before = 0

    async def aput(self, *args: Any) -> Any:
        await asyncio.sleep(0.02)
        return await super().aput(*args)

    def put(self, *args: Any) -> Any:
        self.before += self.agent.jobs == 0
        return super().put(*args)


@pytest.mark.parametrize("given", ["async", "exit", "sync", None])
@pytest.mark.parametrize("caller", ["sync", "async"])
async def test_checkpoints_are_written_before_the_next_step_whatever_the_caller_says(
    given: Any, caller: str
) -> None:
    agent = ScriptedAgent()
    saver = Counting(agent)
    graph = agent.graph().compile(checkpointer=saver)
    if caller == "async":
        await graph.ainvoke(question(), thread(), durability=given)
    else:
        await asyncio.to_thread(graph.invoke, question(), thread(), durability=given)
    assert saver.before == 2  # the input, and the step before submit


async def test_inherit_leaves_durability_to_the_caller() -> None:
    agent = ScriptedAgent()
    saver = Counting(agent)
    graph = agent.graph().compile(checkpointer=saver, durability="inherit")
    await graph.ainvoke(question(), thread(), durability="exit")
    assert saver.before == 0
    assert len([s async for s in graph.aget_state_history(thread())]) == 1


async def test_a_durability_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="durability"):
        ScriptedAgent().graph().compile(durability="exit")  # type: ignore[arg-type]


async def test_a_caller_s_durability_without_a_checkpointer_is_no_error() -> None:
    assert texts(await ScriptedAgent().graph().compile().ainvoke(question(), durability="sync")) == ANSWERED


# ---- runs that could not be safe


async def test_a_run_that_may_need_an_approval_needs_a_checkpointer() -> None:
    agent = ScriptedAgent()
    with pytest.raises(ConfigurationError, match="checkpointer"):
        await agent.graph(tools=[WEB]).compile().ainvoke(question(), thread())
    with pytest.raises(ConfigurationError, match="checkpointer"):
        agent.graph(tools=[WEB]).compile().invoke(question(), thread())
    assert agent.jobs == 0
    state = await agent.graph(tools=[WEB], require_approval="never").compile().ainvoke(question())
    assert texts(state) == ANSWERED


@pytest.mark.parametrize("checkpointer", [True, False])
async def test_a_subgraph_that_does_not_inherit_the_checkpointer_is_refused(checkpointer: bool) -> None:
    agent = ScriptedAgent()
    parent = StateGraph(MessagesState)
    parent.add_node("ask", agent.graph().compile(checkpointer=checkpointer))
    parent.add_edge(START, "ask")
    with pytest.raises(ConfigurationError, match="checkpointer=None"):
        await parent.compile(checkpointer=InMemorySaver()).ainvoke(question(), thread())
    assert agent.jobs == 0


# ---- context


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


# ---- schemas


def test_the_schemas_render_for_studio() -> None:
    graph = supervisor(ScriptedAgent(), tools=[WEB])
    given = graph.get_input_jsonschema()
    assert set(given["properties"]) == {"messages", "turn_id", "tools"}
    assert given["required"] == ["messages"]
    assert set(graph.get_output_jsonschema()["properties"]) == {"messages"}
    context = graph.get_context_jsonschema()
    assert context is not None
    assert "model" in context["properties"]
    json.dumps([given, context, graph.get_config_jsonschema()])
    nodes = {name for name in graph.get_graph().nodes if not name.startswith("__")}
    assert nodes == {"submit", "poll", "approve", "call_tools"}
    assert "submit" in graph.get_graph().draw_mermaid()


async def test_the_state_is_json_beside_its_messages() -> None:
    agent = ScriptedAgent(first_asks(approval("a1"), approval("a2")))
    graph = supervisor(agent, tools=[WEB])
    await graph.ainvoke(question(), thread())
    await graph.ainvoke(Command(resume={"a1": True}), thread())
    job = (await graph.aget_state(thread())).values["job"]
    assert json.loads(json.dumps(job)) == job


# ---- time travel


async def test_a_question_from_an_older_checkpoint_is_a_new_job_on_that_history() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await graph.ainvoke(question("One"), thread())
    first = await graph.aget_state(thread())
    await graph.ainvoke(question("Two"), thread())
    state = await graph.ainvoke(question("Two"), first.config)
    assert agent.jobs == 3
    assert texts(state) == ["One", "Answer to: One", "Two", "Answer to: Two"]
    state = await graph.ainvoke(question("Three"), first.config)
    assert texts(state) == ["One", "Answer to: One", "Three", "Answer to: Three"]
    state = await graph.ainvoke(question("Four"), thread())
    assert texts(state)[-4:] == ["Three", "Answer to: Three", "Four", "Answer to: Four"]


async def test_replaying_an_older_checkpoint_reads_the_same_job() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await graph.ainvoke(question(), thread())
    before = [s async for s in graph.aget_state_history(thread()) if s.next == ("submit",)]
    state = await graph.ainvoke(None, before[0].config)
    assert texts(state) == ANSWERED
    assert agent.jobs == 1


async def test_an_edited_state_goes_on_with_the_edited_history() -> None:
    agent = ScriptedAgent()
    graph = supervisor(agent)
    await graph.ainvoke(question(), thread())
    saved = (await graph.aget_state(thread())).values["messages"]
    edited = AIMessage("An edited answer.", id=saved[-1].id)
    await graph.aupdate_state(thread(), {"messages": [edited]}, as_node="poll")
    await graph.ainvoke(question("And?"), thread())
    said = [part["text"] for item in agent.inputs[-1] for part in item["content"]]
    assert said == ["How much?", "An edited answer.", "And?"]


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


async def test_the_edges_are_the_picture() -> None:
    drawn = supervisor(ScriptedAgent()).get_graph()
    edges = {(edge.source, edge.target) for edge in drawn.edges}
    assert ("__start__", "submit") in edges
    assert ("submit", "poll") in edges
    assert ("poll", "approve") in edges
    assert ("poll", "call_tools") in edges
    assert ("approve", "submit") in edges
    assert ("call_tools", "submit") in edges
    assert ("poll", END) in edges


async def test_a_message_that_says_the_same_is_told_apart_from_its_echo() -> None:
    """A model may give the same answer twice."""
    for echo in (False, True):
        agent = ScriptedAgent(lambda items, number: [message("Yes.")], echo=echo)
        graph = supervisor(agent)
        await graph.ainvoke(question("One?"), thread())
        state = await graph.ainvoke(question("Two?"), thread())
        assert texts(state) == ["One?", "Yes.", "Two?", "Yes."]
