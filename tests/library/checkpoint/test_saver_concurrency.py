"""Several that write one thread at once, are killed, or delete it meanwhile."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from psycopg import sql

from databricks_supervisor import DeduplicatingSaver, SqlLedger
from databricks_supervisor.errors import LedgerError
from tests.library.checkpoint.saver_places import (
    AT,
    Node,
    Place,
    State,
    checkpoint_of,
    conversation,
    graph_of,
    put,
    read,
)
from tests.support.graph_harness import CONFIG
from tests.support.postgres import PostgresServer

# ---- more than one


async def test_two_that_run_one_step_lose_nothing(place: Place) -> None:
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


async def test_many_writers_of_one_thread_do_not_disturb_each_other(place: Place) -> None:
    common = conversation(100)
    async with place.opened() as one, place.opened() as two:

        async def write(saver: DeduplicatingSaver, number: int) -> None:
            await put(saver, checkpoint_of([*common, HumanMessage(f"{number}", id=f"own{number}")]))

        await asyncio.gather(*(write((one, two)[number % 2], number) for number in range(30)))
        assert place.kept() == 100 + 30 + 1
        found = [each.checkpoint["channel_values"]["messages"] async for each in one.alist(AT)]
        assert {messages[-1].text for messages in found} == {f"{number}" for number in range(30)}
        assert all(messages[:100] == common for messages in found)


ROOT = Path(__file__).parents[3]
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


async def test_a_kill_between_messages_and_checkpoint_leaves_the_checkpoint_before(
    sqlite_place: Place,
) -> None:
    assert dying(sqlite_place).wait() == 0
    assert dying(sqlite_place, "die").wait() == -signal.SIGKILL
    assert sqlite_place.kept() == 18
    async with sqlite_place.opened() as saver:
        assert [each.text for each in await read(saver)] == [f"[] {number}" for number in range(9)]
        await put(saver, checkpoint_of(conversation()))
        assert len(await read(saver)) == 10


def test_processes_that_meet_an_empty_database_make_the_table_once(sqlite_place: Place) -> None:
    processes = [dying(sqlite_place) for _ in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    assert sqlite_place.kept() == 9


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
