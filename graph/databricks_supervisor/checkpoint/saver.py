"""A checkpointer that stores each message once, however many checkpoints contain it.

LangGraph's savers write the whole list of messages with every checkpoint (SQLite) or with every checkpoint that
changes it (Postgres): on a thread of 500 messages, each turn adds the size of the conversation twice or more.

LangGraph's ``DeltaChannel`` writes only the new messages, but is not safe if two processes run one thread. It stores
them by (parent checkpoint, task): if both run the same step, only the first one's messages are stored, while each
writes its own checkpoint. In a test, one process delivered 3 items and the other 5: the thread's state said 5 and
held 3. With whole lists, as here, it held 5.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from ..errors import ConfigurationError, LedgerError
from .references import (
    Content,
    Packer,
    checkpoint_values,
    history_values,
    references,
    unpack,
    with_checkpoint_values,
    with_history_values,
)

if TYPE_CHECKING:
    from ..ledger.sql import SqlLedger


T = TypeVar("T")

_PATIENCE_S = 30.0  # the default time-out of psycopg's pool
_DELETE_STRATEGIES = ("delete", "delete_all")  # in LangGraph's base class, and in its server


class DeduplicatingSaver(BaseCheckpointSaver[Any]):
    """Wraps a checkpointer: lists of eight messages or more are stored as references to their messages.

    The messages are in a table of the ledger's database, once per thread, and are written before a checkpoint refers
    to them: a process killed in between leaves unused rows and a readable thread. Each checkpoint is complete, so
    concurrent writers are safe. Checkpoints written without the wrapper are read as they are; without it, a reader of
    a checkpoint written with it sees a dict with the one key :data:`MARKER` instead of the list.

    Measured on a thread of 500 messages (250 KB): a turn with three items of 400 bytes adds 20 KB, however often
    it is polled, instead of 1,520 KB (SQLite) or 740 KB (Postgres). Reading the 500 takes 4.5 ms of processor
    time as before, and 10 to 13 ms the first time in a process; writing them takes 4 ms instead of 2.5 ms.

    Args:
        inner: The checkpointer that stores the checkpoints. Its serialiser serialises the messages too; an
            ``EncryptedSerializer`` encrypts them, but their keys are digests of the plain bytes.
        ledger: The ledger of these checkpoints. A supervisor without a ``ledger`` argument uses it.

    Raises:
        ConfigurationError: The ledger is not in a database.

    Messages that :meth:`prune` leaves without a reference stay until their thread is deleted: another process may be
    about to refer to them. ``copy_thread`` and ``delete_for_runs`` are not supported.

    Example:
        >>> import asyncio, tempfile
        >>> from databricks_supervisor import DeduplicatingSaver, SqlLedger, create_supervisor_graph
        >>> from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
        >>> async def main(folder):
        ...     ledger = SqlLedger(f"sqlite:///{folder}/state.db")
        ...     async with AsyncSqliteSaver.from_conn_string(f"{folder}/state.db") as saver:
        ...         saver = DeduplicatingSaver(saver, ledger)
        ...         graph = create_supervisor_graph(model="m", ledger=ledger).compile(saver)
        ...         config = {"configurable": {"thread_id": "t"}}
        ...         await graph.aupdate_state(config, {"messages": [("user", f"{n}?") for n in range(9)]})
        ...         state = await graph.aget_state(config)
        ...     await ledger.aclose()
        ...     return state.values["messages"][-1].text
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     asyncio.run(main(folder))
        '8?'
    """

    def __init__(self, inner: BaseCheckpointSaver[Any], ledger: SqlLedger) -> None:
        super().__init__(serde=inner.serde)
        if not hasattr(ledger, "database"):
            raise ConfigurationError(
                f"DeduplicatingSaver stores messages in the ledger's database; a {type(ledger).__name__} has none. "
                "Give it an SqlLedger, or use the checkpointer without it."
            )
        from .contents import ContentStore

        self.inner = inner
        self.ledger = ledger
        self._database = ledger.database
        self._store = ContentStore(self._database)

    async def setup(self) -> None:
        """Create the table of messages now, not at first use. The inner saver has its own ``setup``.

        Raises:
            LedgerError: It cannot be created.
        """
        await self._database.run(self._store.set_up)

    @property
    def config_specs(self) -> list[Any]:
        """As the inner saver's."""
        return self.inner.config_specs

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As the inner saver's."""
        return self.inner.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> BaseCheckpointSaver[Any]:
        """As the inner saver's."""
        inner = self.inner.with_allowlist(extra_allowlist)
        if inner is self.inner:
            return self
        clone = copy.copy(self)
        clone.inner, clone.serde = inner, inner.serde
        return clone

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint.

        Raises:
            LedgerError: The messages could not be stored. The checkpoint was not stored either.
        """
        packer = Packer(self.serde)
        checkpoint = _packed(checkpoint, packer)
        if packer.contents:
            self._run_sync(self._store.put, _thread(config), packer.contents)
        return self.inner.put(config, checkpoint, metadata, new_versions)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As :meth:`put`."""
        packer = Packer(self.serde)
        checkpoint = _packed(checkpoint, packer)
        if packer.contents:
            await self._run(self._store.put, _thread(config), packer.contents)
        return await self.inner.aput(config, checkpoint, metadata, new_versions)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store the writes of a task (those of a subgraph contain the whole conversation).

        Raises:
            LedgerError: The messages could not be stored. The writes were not stored either.
        """
        packer = Packer(self.serde)
        writes = [(channel, packer.pack(value)) for channel, value in writes]
        if packer.contents:
            self._run_sync(self._store.put, _thread(config), packer.contents)
        self.inner.put_writes(config, writes, task_id, task_path)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As :meth:`put_writes`."""
        packer = Packer(self.serde)
        writes = [(channel, packer.pack(value)) for channel, value in writes]
        if packer.contents:
            await self._run(self._store.put, _thread(config), packer.contents)
        await self.inner.aput_writes(config, writes, task_id, task_path)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint, with its messages.

        Raises:
            LedgerError: A message is missing.
        """
        found = self.inner.get_tuple(config)
        return None if found is None else self._restored(found)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As :meth:`get_tuple`."""
        found = await self.inner.aget_tuple(config)
        return None if found is None else await self._arestored(found)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, with their messages.

        Raises:
            LedgerError: A message is missing.
        """
        for found in self.inner.list(config, filter=filter, before=before, limit=limit):
            yield self._restored(found)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """As :meth:`list`."""
        async for found in self.inner.alist(config, filter=filter, before=before, limit=limit):
            yield await self._arestored(found)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As the inner saver's, with the messages."""
        found = self.inner.get_delta_channel_history(config=config, channels=channels)
        return with_history_values(found, self._unpack(_thread(config), history_values(found)))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As :meth:`get_delta_channel_history`."""
        found = await self.inner.aget_delta_channel_history(config=config, channels=channels)
        return with_history_values(found, await self._aunpack(_thread(config), history_values(found)))

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread's checkpoints, and its messages."""
        self.inner.delete_thread(thread_id)
        self._run_sync(self._store.delete, str(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """As :meth:`delete_thread`."""
        await self.inner.adelete_thread(thread_id)
        await self._run(self._store.delete, str(thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As the inner saver's; ``"delete"`` works even if that one has no ``prune``.

        Raises:
            NotImplementedError: The inner saver does not support it.
        """
        if strategy not in _DELETE_STRATEGIES:
            self.inner.prune(thread_ids, strategy=strategy)
            return
        for thread_id in thread_ids:
            self.delete_thread(thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As :meth:`prune`."""
        if strategy not in _DELETE_STRATEGIES:
            await self.inner.aprune(thread_ids, strategy=strategy)
            return
        for thread_id in thread_ids:
            await self.adelete_thread(thread_id)

    def _restored(self, found: CheckpointTuple) -> CheckpointTuple:
        values = checkpoint_values(found)
        return with_checkpoint_values(found, self._unpack(_thread(found.config), values))

    async def _arestored(self, found: CheckpointTuple) -> CheckpointTuple:
        values = checkpoint_values(found)
        return with_checkpoint_values(found, await self._aunpack(_thread(found.config), values))

    def _unpack(self, thread: str, value: Any) -> Any:
        wanted = references(value)
        contents = self._store.recall(thread, *wanted)
        if contents is None:
            contents = self._run_sync(self._store.get, thread, *wanted)
        return self._load(thread, value, contents)

    async def _aunpack(self, thread: str, value: Any) -> Any:
        wanted = references(value)
        contents = self._store.recall(thread, *wanted)
        if contents is None:
            contents = await self._run(self._store.get, thread, *wanted)
        return self._load(thread, value, contents)

    # All work of the store may be repeated. Checkpointers with a pool wait for a restarting database too.
    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        return await self._database.run(lambda connection: work(connection, *args), patience=_PATIENCE_S)

    def _run_sync(self, work: Callable[..., T], *args: Any) -> T:
        return self._database.run_sync(lambda connection: work(connection, *args), patience=_PATIENCE_S)

    def _load(self, thread: str, value: Any, contents: dict[bytes, Content]) -> Any:
        try:
            return unpack(value, contents, self.serde)
        except KeyError:
            raise LedgerError(
                f"Thread {thread}: messages of a checkpoint are not in the ledger {self._database.spec.name}. "
                "The thread was deleted while it ran, or its messages are in the database of another ledger. "
                "Open the thread with that ledger, or delete it."
            ) from None


def _thread(config: RunnableConfig) -> str:
    return str(config["configurable"]["thread_id"])


def _packed(checkpoint: Checkpoint, packer: Packer) -> Checkpoint:
    return cast(Checkpoint, {**checkpoint, "channel_values": packer.pack(checkpoint["channel_values"])})
