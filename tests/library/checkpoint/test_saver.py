"""Each message is kept once: what is written comes back."""

from __future__ import annotations

import secrets
import sqlite3
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from databricks_supervisor import ConfigurationError, DeduplicatingSaver, MemoryLedger
from databricks_supervisor.checkpoint import contents as stored
from databricks_supervisor.checkpoint.ledger_resolver import LedgerResolver
from databricks_supervisor.checkpoint.references import MARKER
from databricks_supervisor.errors import LedgerError
from tests.library.checkpoint.saver_places import AT, Place, checkpoint_of, conversation, graph_of, put, read
from tests.support.graph_harness import CONFIG

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
async def test_conversations_of_every_length_come_back_in_order(sqlite_place: Place, count: int) -> None:
    messages = conversation(count)
    messages[count // 2] = messages[0]  # the same one twice
    async with sqlite_place.opened() as saver:
        await put(saver, checkpoint_of(messages))
        assert await read(saver) == messages
    async with sqlite_place.opened() as fresh:
        assert await read(fresh) == messages


async def test_messages_inside_of_dicts_are_kept_once_too(sqlite_place: Place) -> None:
    """As a subgraph's input is, which holds the parent's conversation."""
    messages = conversation()
    async with sqlite_place.opened() as saver:
        await put(saver, checkpoint_of(messages, __start__={"messages": messages, "by": {"name": messages}}))
        assert sqlite_place.kept() == 10
        assert sqlite_place.size() < 2 * 10 * 500
        found = await saver.aget_tuple(AT)
    assert found is not None
    assert found.checkpoint["channel_values"]["__start__"] == {"messages": messages, "by": {"name": messages}}


async def test_what_is_read_may_be_changed(sqlite_place: Place) -> None:
    """It is nobody else's: what one run does to its messages, no other one sees."""
    async with sqlite_place.opened() as saver:
        await put(saver, checkpoint_of(messages := conversation()))
        for changed in (messages, await read(saver)):
            changed[0].content = "changed"
        assert (await read(saver))[0].content != "changed"


async def test_putting_does_not_change_what_is_put(sqlite_place: Place) -> None:
    written = checkpoint_of(conversation())
    messages = written["channel_values"]["messages"]
    async with sqlite_place.opened() as saver:
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


async def test_messages_that_are_not_there_are_told_by_thread_and_ledger(sqlite_place: Place) -> None:
    async with sqlite_place.opened() as saver:
        await put(saver, checkpoint_of(conversation()))
    with sqlite3.connect(sqlite_place.address) as connection:
        connection.execute("DELETE FROM supervisor_contents WHERE rowid = 1")
    async with sqlite_place.opened() as fresh:
        with pytest.raises(LedgerError, match=r"Thread thread: .*state\.sqlite"):
            await fresh.aget_tuple(AT)


async def test_a_supervisor_takes_its_ledger_from_it(sqlite_place: Place) -> None:
    async with sqlite_place.opened() as saver:
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


# ---- memory


async def test_what_was_just_used_is_read_without_the_database(sqlite_place: Place) -> None:
    async with sqlite_place.opened() as saver:
        await put(saver, checkpoint_of(messages := conversation(70)))
        with sqlite3.connect(sqlite_place.address) as connection:
            connection.execute("DELETE FROM supervisor_contents")
        assert await read(saver) == messages


async def test_memory_is_bounded_and_what_is_forgotten_is_read_again(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_REMEMBERED", 20_000)
    async with sqlite_place.opened() as saver:
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
