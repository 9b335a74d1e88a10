"""Each message is kept once: what is written comes back, whoever wrote it and whatever died meanwhile."""

from __future__ import annotations

import asyncio
import operator
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt
from psycopg import sql
from typing_extensions import TypedDict

from databricks_supervisor import ConfigurationError, DeduplicatingSaver, MemoryLedger, SqlLedger
from databricks_supervisor.checkpoint import contents as stored
from databricks_supervisor.checkpoint.ledger_resolver import LedgerResolver
from databricks_supervisor.checkpoint.references import MARKER
from databricks_supervisor.errors import LedgerError
from tests.support.graph_harness import CONFIG, harness
from tests.support.postgres import PostgresServer
from tests.support.scripted_service import message, response

ROOT = Path(__file__).parents[3]
AT: Any = {"configurable": {"thread_id": "thread", "checkpoint_ns": ""}}

EVERY_KIND: list[BaseMessage] = [
    SystemMessage("Be brief.", id="s"),
    HumanMessage("How much? – 多少 \x00", id="h", name="Ann"),
    HumanMessage([{"type": "text", "text": "and"}, {"type": "image_url", "image_url": {"url": "data:,"}}]),
    AIMessage(
        "42",
        id="resp_1:0",
        additional_kwargs={"item": {"type": "message", "content": [{"text": "42"}]}},
        response_metadata={"model": "m", "bytes": b"\x00\xff"},
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    ),
    AIMessage("", tool_calls=[{"name": "add", "args": {"a": [1, {"b": None}]}, "id": "call_1"}]),
    AIMessageChunk("part", id="c"),
    ToolMessage("3", tool_call_id="call_1", artifact={"rows": [[1, 2]]}, status="error"),
    FunctionMessage("3", name="add"),
    ChatMessage("hm", role="critic"),
    RemoveMessage(id="gone"),
]


@dataclass(frozen=True)
class Place:
    """Where checkpoints and ledger are kept: a SQLite file, or a Postgres by URL."""

    address: str

    @property
    def is_file(self) -> bool:
        return not self.address.startswith("postgresql")

    def ledger(self) -> SqlLedger:
        return SqlLedger(f"sqlite:///{self.address}" if self.is_file else self.address)

    @asynccontextmanager
    async def plain(self, **options: Any) -> AsyncIterator[BaseCheckpointSaver[Any]]:
        if self.is_file:
            async with AsyncSqliteSaver.from_conn_string(self.address) as saver:
                saver.serde = options.get("serde", saver.serde)
                yield saver
        else:
            async with AsyncPostgresSaver.from_conn_string(self.address, **options) as postgres:
                await postgres.setup()
                yield postgres

    @asynccontextmanager
    async def opened(self, **options: Any) -> AsyncIterator[DeduplicatingSaver]:
        ledger = self.ledger()
        async with self.plain(**options) as saver:
            yield DeduplicatingSaver(saver, ledger)
        await ledger.aclose()

    @contextmanager
    def opened_sync(self) -> Iterator[DeduplicatingSaver]:
        with (SqliteSaver if self.is_file else PostgresSaver).from_conn_string(self.address) as saver:
            saver.setup()
            ledger = self.ledger()
            yield DeduplicatingSaver(saver, ledger)
            asyncio.run(ledger.aclose())

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        if self.is_file:
            with sqlite3.connect(self.address) as connection:
                return connection.execute(statement).fetchall()
        with psycopg.connect(self.address) as connection:
            return connection.execute(statement).fetchall()  # type: ignore[arg-type]

    def kept(self, thread: str = "thread") -> int:
        """How many contents are kept for a thread."""
        found = self.rows(f"SELECT count(*) FROM supervisor_contents WHERE thread = '{thread}'")
        return int(found[0][0])

    def size(self) -> int:
        """Bytes of all rows of checkpoints, their writes and messages (in Postgres as compressed)."""
        measure, names = "sum(pg_column_size(t.*))", ["checkpoints", "checkpoint_blobs", "checkpoint_writes"]
        if self.is_file:
            names = ["checkpoints", "writes"]
        total = 0
        for name in [*names, "supervisor_contents"]:
            if self.is_file:
                columns = [row[1] for row in self.rows(f"PRAGMA table_info({name})")]
                measure = "+".join(f"coalesce(sum(length({column})), 0)" for column in columns)
            if measure:
                total += int(self.rows(f"SELECT {measure} FROM {name} t")[0][0] or 0)
        return total


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(str(tmp_path / "state.sqlite"))
    return Place(request.getfixturevalue("postgres_url"))


@pytest.fixture
def file(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "state.sqlite"))


def conversation(count: int = 10) -> list[BaseMessage]:
    """Messages of about 500 bytes that cannot be compressed."""
    kinds = (HumanMessage, AIMessage)
    return [kinds[number % 2](secrets.token_hex(170), id=f"m{number}") for number in range(count)]


def checkpoint_of(messages: Sequence[BaseMessage], **more: Any) -> Any:
    values = {"messages": list(messages), **more}
    return {
        **empty_checkpoint(),
        "channel_values": values,
        "channel_versions": {name: f"{1:032}.{secrets.randbelow(10**16)}" for name in values},
    }


async def put(saver: BaseCheckpointSaver[Any], checkpoint: Any, at: Any = AT) -> Any:
    return await saver.aput(at, checkpoint, {"step": 1}, checkpoint["channel_versions"])


async def read(saver: BaseCheckpointSaver[Any], at: Any = AT) -> Any:
    found = await saver.aget_tuple(at)
    assert found is not None
    return found.checkpoint["channel_values"]["messages"]


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    delivered: int


Node = Callable[[State], Any]


def graph_of(saver: BaseCheckpointSaver[Any], *nodes: Node, state: Any = State) -> Any:
    """The nodes, one after the other."""
    builder = StateGraph(state)
    names = [f"node{number}" for number, _ in enumerate(nodes)]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=saver)


# ---- what is written comes back


async def test_every_kind_of_message_comes_back(place: Place) -> None:
    async with place.opened() as saver:
        written = checkpoint_of(EVERY_KIND, few=EVERY_KIND[:2], number=7, mixed=["text", *EVERY_KIND])
        at = await put(saver, written)
        await saver.aput_writes(at, [("messages", EVERY_KIND), ("few", 1)], "task")
        assert place.kept() == len(EVERY_KIND)
    async with place.opened() as fresh:
        found = await fresh.aget_tuple(AT)
        assert found is not None
        assert found.checkpoint == written
        assert found.pending_writes == [("task", "messages", EVERY_KIND), ("task", "few", 1)]
        assert [each.checkpoint async for each in fresh.alist(AT)] == [written]


def test_every_kind_of_message_comes_back_to_sync_callers(place: Place) -> None:
    written = checkpoint_of(EVERY_KIND)
    with place.opened_sync() as saver:
        at = saver.put(AT, written, {"step": 1}, written["channel_versions"])
        saver.put_writes(at, [("messages", EVERY_KIND)], "task")
    with place.opened_sync() as fresh:
        found = fresh.get_tuple(AT)
        assert found is not None
        assert found.checkpoint == written
        assert found.pending_writes == [("task", "messages", EVERY_KIND)]
        assert [each.checkpoint for each in fresh.list(AT)] == [written]
        fresh.delete_thread("thread")
        assert fresh.get_tuple(AT) is None
        assert place.kept() == 0


@pytest.mark.parametrize("count", [7, 8, 63, 64, 65, 128, 500])
async def test_conversations_of_every_length_come_back_in_order(file: Place, count: int) -> None:
    messages = conversation(count)
    messages[count // 2] = messages[0]  # the same one twice
    async with file.opened() as saver:
        await put(saver, checkpoint_of(messages))
        assert await read(saver) == messages
    async with file.opened() as fresh:
        assert await read(fresh) == messages


async def test_messages_inside_of_dicts_are_kept_once_too(file: Place) -> None:
    """As a subgraph's input is, which holds the parent's conversation."""
    messages = conversation()
    async with file.opened() as saver:
        await put(saver, checkpoint_of(messages, __start__={"messages": messages, "by": {"name": messages}}))
        assert file.kept() == 10
        assert file.size() < 2 * 10 * 500
        found = await saver.aget_tuple(AT)
    assert found is not None
    assert found.checkpoint["channel_values"]["__start__"] == {"messages": messages, "by": {"name": messages}}


async def test_what_is_read_may_be_changed(file: Place) -> None:
    """It is nobody else's: what one run does to its messages, no other one sees."""
    async with file.opened() as saver:
        await put(saver, checkpoint_of(messages := conversation()))
        for changed in (messages, await read(saver)):
            changed[0].content = "changed"
        assert (await read(saver))[0].content != "changed"


async def test_putting_does_not_change_what_is_put(file: Place) -> None:
    written = checkpoint_of(conversation())
    messages = written["channel_values"]["messages"]
    async with file.opened() as saver:
        await put(saver, written)
    assert written["channel_values"]["messages"] is messages


async def test_with_an_encrypting_serialiser_messages_are_encrypted_and_kept_once(place: Place) -> None:
    serde = EncryptedSerializer(Reversing(), JsonPlusSerializer())
    messages = [HumanMessage(f"a secret {number}", id=f"m{number}") for number in range(70)]
    async with place.opened(serde=serde) as saver:
        await put(saver, checkpoint_of(messages))
        await put(saver, checkpoint_of(messages))
        assert place.kept() == 71  # and a page
    contents = place.rows("SELECT content FROM supervisor_contents")
    assert not [content for (content,) in contents if b"secret" in content]
    async with place.opened(serde=serde) as fresh:
        assert await read(fresh) == messages


class Reversing:
    """A cipher for tests: other bytes each time, as any good one."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "reversing", secrets.token_bytes(8) + plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "reversing"
        return ciphertext[8:][::-1]


# ---- with and without it


async def test_a_thread_that_was_written_without_it_is_read_and_goes_on(place: Place) -> None:
    messages = conversation()
    async with place.plain() as plain:
        before = await put(plain, checkpoint_of(messages))
        await plain.aput_writes(before, [("messages", messages)], "task")
    async with place.opened() as saver:
        found = await saver.aget_tuple(AT)
        assert found is not None
        assert found.checkpoint["channel_values"]["messages"] == messages
        assert found.pending_writes == [("task", "messages", messages)]
        await put(saver, checkpoint_of([*messages, AIMessage("more", id="more")]), before)
        assert [len(each.checkpoint["channel_values"]["messages"]) async for each in saver.alist(AT)] == [
            11,
            10,
        ]


async def test_a_reader_without_it_is_told_what_is_missing(place: Place) -> None:
    async with place.opened() as saver:
        await put(saver, checkpoint_of(conversation()))
        assert list(await read(saver.inner)) == [MARKER]
        graph = graph_of(saver.inner, lambda state: {"messages": [AIMessage("more")]})
        with pytest.raises(ValueError, match="DeduplicatingSaver"):
            await graph.ainvoke({"messages": [HumanMessage("?")]}, CONFIG)


async def test_messages_that_are_not_there_are_told_by_thread_and_ledger(file: Place) -> None:
    async with file.opened() as saver:
        await put(saver, checkpoint_of(conversation()))
    with sqlite3.connect(file.address) as connection:
        connection.execute("DELETE FROM supervisor_contents WHERE rowid = 1")
    async with file.opened() as fresh:
        with pytest.raises(LedgerError, match=r"Thread thread: .*state\.sqlite"):
            await fresh.aget_tuple(AT)


async def test_a_supervisor_takes_its_ledger_from_it(file: Place) -> None:
    async with file.opened() as saver:
        assert await LedgerResolver(None).resolve(saver) is saver.ledger
        assert await LedgerResolver(None).resolve(saver.with_allowlist([("some", "Type")])) is saver.ledger
        given = MemoryLedger()
        assert await LedgerResolver(given).resolve(saver) is given
        in_memory = InMemorySaver()
        of_memory = await LedgerResolver(given).resolve(in_memory)
        assert await LedgerResolver(given).resolve(DeduplicatingSaver(in_memory, saver.ledger)) is of_memory


def test_a_ledger_in_memory_cannot_keep_messages() -> None:
    ledger: Any = MemoryLedger()
    with pytest.raises(ConfigurationError, match="MemoryLedger"):
        DeduplicatingSaver(InMemorySaver(), ledger)


# ---- graphs


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


async def test_what_a_subgraph_returns_is_not_kept_a_second_time(file: Place) -> None:
    async with file.opened() as saver:
        child = graph_of(None, lambda state: {"messages": [AIMessage("more", id="more")]})  # type: ignore[arg-type]
        graph = graph_of(saver, child)
        await graph.aupdate_state(CONFIG, {"messages": conversation(200)}, as_node="node0")
        before = file.size()
        await graph.ainvoke({"messages": [HumanMessage("?", id="q")]}, CONFIG)
        assert file.size() - before < 30_000  # the conversation alone has 100,000
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


async def test_an_allowlist_reaches_the_wrapped_checkpointer(file: Place) -> None:
    strict = JsonPlusSerializer(allowed_msgpack_modules=[("some", "Type")])
    async with file.opened(serde=strict) as saver:
        clone = saver.with_allowlist([("another", "Type")])
        assert isinstance(clone, DeduplicatingSaver)
        assert clone is not saver
        assert clone.inner is not saver.inner
        assert clone.serde is clone.inner.serde is not saver.serde
        await put(clone, checkpoint_of(messages := conversation()))
        assert await read(saver) == messages


# ---- memory


async def test_what_was_just_used_is_read_without_the_database(file: Place) -> None:
    async with file.opened() as saver:
        await put(saver, checkpoint_of(messages := conversation(70)))
        with sqlite3.connect(file.address) as connection:
            connection.execute("DELETE FROM supervisor_contents")
        assert await read(saver) == messages


async def test_memory_is_bounded_and_what_is_forgotten_is_read_again(
    file: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_REMEMBERED", 20_000)
    async with file.opened() as saver:
        threads: dict[str, list[BaseMessage]] = {f"t{number}": conversation(30) for number in range(6)}
        for thread, messages in threads.items():
            await put(
                saver, checkpoint_of(messages), {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
            )
        assert saver._store.recall("t0", [], [b"unknown"]) is None
        recent = saver._store._recent
        assert len(recent._young) + len(recent._old) <= 2 * 60
        for thread, messages in threads.items():
            assert await read(saver, {"configurable": {"thread_id": thread}}) == messages


# ---- more than one


async def test_two_that_drive_one_step_lose_nothing(place: Place) -> None:
    """As ``DeltaChannel`` does: the later one's counter says 5, the first one's items are kept."""
    loser_has_begun, winner_has_ended = asyncio.Event(), asyncio.Event()

    def poll(items: int, wait: asyncio.Event | None) -> Node:
        async def node(_state: State) -> Any:
            if wait is not None:
                loser_has_begun.set()
                await wait.wait()
            fresh: list[BaseMessage] = [AIMessage(f"{number}", id=f"i{number}") for number in range(items)]
            return {"messages": fresh, "delivered": items}

        return node

    async def after(_state: State) -> Any:
        return {}

    async with place.opened() as first, place.opened() as second:
        slow = graph_of(second, poll(5, winner_has_ended), after)
        fast = graph_of(first, poll(3, None), after)
        start = {"messages": conversation(20), "delivered": 0}
        await fast.ainvoke(start, CONFIG, interrupt_before=["node0"], durability="sync")
        started = asyncio.create_task(slow.ainvoke(None, CONFIG, durability="sync"))
        await loser_has_begun.wait()
        await fast.ainvoke(None, CONFIG, durability="sync")
        winner_has_ended.set()
        await started
        values = (await fast.aget_state(CONFIG)).values
    assert (values["delivered"], len(values["messages"])) == (5, 25)


async def test_many_writers_of_one_thread_do_not_stand_in_each_other_s_way(place: Place) -> None:
    common = conversation(100)
    async with place.opened() as one, place.opened() as two:

        async def write(saver: DeduplicatingSaver, number: int) -> None:
            await put(saver, checkpoint_of([*common, HumanMessage(f"{number}", id=f"own{number}")]))

        await asyncio.gather(*(write((one, two)[number % 2], number) for number in range(30)))
        assert place.kept() == 100 + 30 + 1
        found = [each.checkpoint["channel_values"]["messages"] async for each in one.alist(AT)]
        assert {messages[-1].text for messages in found} == {f"{number}" for number in range(30)}
        assert all(messages[:100] == common for messages in found)


DYING = """
import asyncio, os, signal, sys
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langchain_core.messages import HumanMessage
from databricks_supervisor import DeduplicatingSaver, SqlLedger

class Dying(AsyncSqliteSaver):
    async def aput(self, config, checkpoint, *rest):
        if len(sys.argv) > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().aput(config, checkpoint, *rest)

async def main():
    async with Dying.from_conn_string(sys.argv[1]) as inner:
        saver = DeduplicatingSaver(inner, SqlLedger(f"sqlite:///{sys.argv[1]}"))
        values = {"messages": [HumanMessage(f"{sys.argv[2:]} {n}", id=f"{n}") for n in range(9)]}
        config = {"configurable": {"thread_id": "thread", "checkpoint_ns": ""}}
        await saver.aput(config, {**empty_checkpoint(), "channel_values": values}, {}, {})
        await saver.ledger.aclose()

asyncio.run(main())
"""


def dying(place: Place, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DYING, place.address, *arguments], cwd=ROOT)


async def test_a_kill_between_messages_and_checkpoint_leaves_the_checkpoint_before(file: Place) -> None:
    assert dying(file).wait() == 0
    assert dying(file, "die").wait() == -signal.SIGKILL
    assert file.kept() == 18
    async with file.opened() as saver:
        assert [each.text for each in await read(saver)] == [f"[] {number}" for number in range(9)]
        await put(saver, checkpoint_of(conversation()))
        assert len(await read(saver)) == 10


def test_processes_that_meet_an_empty_database_make_the_table_once(file: Place) -> None:
    processes = [dying(file) for _ in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    assert file.kept() == 9


async def test_a_database_that_is_away_for_a_moment_is_waited_for(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    """As checkpointers with a pool of connections wait for theirs."""
    ledger = SqlLedger(postgres_url)
    saver = DeduplicatingSaver(InMemorySaver(), ledger)
    await saver.setup()

    def allow(yes: bool) -> None:
        with psycopg.connect(postgres_url, dbname="postgres", autocommit=True) as connection:
            name = sql.Identifier(psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"])
            connection.execute(
                sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(name, sql.Literal(yes))
            )

    allow(False)
    postgres_server.drop_connections(postgres_url)
    putting = asyncio.create_task(put(saver, checkpoint_of(messages := conversation())))
    with pytest.raises(LedgerError):
        await ledger.get_turn("turn")
    assert not putting.done()
    allow(True)
    await putting
    assert await read(saver) == messages
    await ledger.aclose()


# ---- deleting


async def test_deleting_a_thread_leaves_nothing_of_it_and_all_of_the_others(place: Place) -> None:
    other: Any = {"configurable": {"thread_id": "other", "checkpoint_ns": ""}}
    async with place.opened() as saver:
        messages = conversation(70)
        for at in (AT, other):
            await put(saver, checkpoint_of(messages), at)
        await saver.adelete_thread("thread")
        assert await saver.aget_tuple(AT) is None
        assert (place.kept(), place.kept("other")) == (0, 71)
        assert await read(saver, other) == messages


async def test_a_thread_that_another_process_deleted_begins_anew(place: Place) -> None:
    """Nobody trusts his memory of what is stored."""
    messages = conversation(70)
    async with place.opened() as one, place.opened() as two:
        await put(one, checkpoint_of(messages))
        await two.adelete_thread("thread")
        await put(one, checkpoint_of(messages))
    async with place.opened() as fresh:
        assert await read(fresh) == messages


async def test_pruning_keeps_the_latest_and_removes_whole_threads(place: Place) -> None:
    async with place.opened() as saver:
        messages = conversation()
        at = await put(saver, checkpoint_of(messages))
        await put(saver, checkpoint_of([*messages, AIMessage("more", id="more")]), at)
        if place.is_file:
            with pytest.raises(NotImplementedError):
                await saver.aprune(["thread"])
        else:
            await saver.aprune(["thread"])
            assert [len(each.checkpoint["channel_values"]["messages"]) async for each in saver.alist(AT)] == [
                11
            ]
        await saver.aprune(["thread"], strategy="delete")
        assert await saver.aget_tuple(AT) is None
        assert place.kept() == 0


# ---- what it is for


async def added_by_a_turn(saver: Any, place: Place, polls: int) -> int:
    """Bytes that a question adds to a thread of 500 messages; its job has three items of 400 bytes."""
    items = [message(secrets.token_hex(200), f"msg_{number}") for number in range(3)]
    retrieves = [response("in_progress", *items[:1])] * polls
    retrieves += [response("in_progress", *items[:2])] * polls + [response("completed", *items)]
    async with harness(retrieves=retrieves, saver=saver, ledger=place.ledger()) as h:
        await h.graph.aupdate_state(CONFIG, {"messages": conversation(500)})
        before = place.size()
        await h.ask()
        assert len(await h.texts()) == 504
        assert len(h.service.gets) == 2 * polls + 1
        return place.size() - before


async def test_what_a_turn_adds_does_not_depend_on_the_conversation(place: Place) -> None:
    async with place.opened() as saver:
        added = await added_by_a_turn(saver, place, polls=1)
    assert added < 40_000  # of which 2,000 are what was said, twice


async def test_what_a_turn_adds_does_not_depend_on_the_polls(place: Place) -> None:
    added = []
    for polls in (1, 10):
        async with place.opened() as saver:
            added.append(await added_by_a_turn(saver, place, polls))
            await saver.adelete_thread("thread")
            await saver.ledger.delete_thread("thread")
    assert abs(added[1] - added[0]) < 500


async def test_without_it_a_turn_adds_the_whole_conversation_more_than_once(place: Place) -> None:
    async with place.opened() as saver:
        await saver.setup()  # the table is asked for its size
        added = await added_by_a_turn(saver.inner, place, polls=1)
    assert added > 4 * 250_000 if place.is_file else added > 2 * 250_000
