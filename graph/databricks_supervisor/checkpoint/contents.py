"""Content-addressed storage of messages, by the digest of their bytes, in one more table of the ledger's database.

Rows are immutable: storing one again changes nothing, and concurrent writers cannot conflict.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Column, Connection, LargeBinary, MetaData, Table, Text, delete, inspect, select
from sqlalchemy.dialects import postgresql, sqlite

from ..ledger.database import Database
from ..ledger.schema import exclusive
from .references import Content, split

T = TypeVar("T")
_BATCH = 200  # rows per statement: databases limit the number of parameters
_REMEMBERED = 8_000_000  # bytes per generation of the cache; two hold some sixty threads of 500 messages

metadata = MetaData()

contents = Table(
    "supervisor_contents",
    metadata,
    Column("thread", Text, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("type", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
"""One row per thread and content."""

_of_thread = contents.c.thread


class ContentStore:
    """Contents of threads, in a database.

    Args:
        database: The database; the table is created at first use.
    """

    def __init__(self, database: Database) -> None:
        self._is_set_up = False
        self._recent = _Cache()
        self._insert = postgresql.insert if database.spec.dialect == "postgresql" else sqlite.insert

    def set_up(self, connection: Connection) -> None:
        """Create the table. Several processes may do so at the same time."""
        if not inspect(connection).has_table(contents.name):
            with exclusive(connection):
                metadata.create_all(connection)
        self._is_set_up = True

    def _ensure_table(self, connection: Connection) -> None:
        if not self._is_set_up:
            self.set_up(connection)

    def put(self, connection: Connection, thread: str, new: Mapping[bytes, Content]) -> None:
        """Store the contents that are missing. (Never from the cache: another process may delete the thread.)"""
        self._ensure_table(connection)
        known = connection.execute(select(contents.c.digest).where(_of_thread == thread)).scalars().all()
        # Sorted, so that two writers of the same rows cannot deadlock.
        rows = [
            {"thread": thread, "digest": digest, "type": new[digest][0], "content": new[digest][1]}
            for digest in sorted(new.keys() - set(known))
        ]
        for batch in _in_batches(rows):
            connection.execute(self._insert(contents).values(batch).on_conflict_do_nothing())
        self._recent.add(thread, new)

    def get(
        self, connection: Connection, thread: str, pages: Collection[bytes], digests: Collection[bytes]
    ) -> dict[bytes, Content]:
        """Read pages, the contents that they refer to, and other contents; missing ones are left out.

        Args:
            connection: A connection in autocommit.
            thread: Id of the thread.
            pages: Digests of pages.
            digests: Digests of other contents.
        """
        self._ensure_table(connection)
        found = self._fetch(connection, thread, pages)
        return found | self._fetch(connection, thread, _in_pages(found).union(digests))

    def _fetch(self, connection: Connection, thread: str, wanted: Collection[bytes]) -> dict[bytes, Content]:
        found = self._recent.get(thread, wanted)
        for batch in _in_batches([digest for digest in wanted if digest not in found]):
            query = select(contents.c.digest, contents.c.type, contents.c.content).where(
                _of_thread == thread, contents.c.digest.in_(batch)
            )
            found |= {digest: (kind, content) for digest, kind, content in connection.execute(query)}
        self._recent.add(thread, found)
        return found

    def recall(
        self, thread: str, pages: Collection[bytes], digests: Collection[bytes]
    ) -> dict[bytes, Content] | None:
        """The result of :meth:`get` from the cache; ``None`` if any of it is not there."""
        found = self._recent.get(thread, pages)
        if len(found) < len(pages):
            return None
        wanted = _in_pages(found).union(digests)
        more = self._recent.get(thread, wanted)
        return found | more if len(more) == len(wanted) else None

    def delete(self, connection: Connection, thread: str) -> None:
        """Delete all contents of a thread."""
        self._ensure_table(connection)
        connection.execute(delete(contents).where(_of_thread == thread))
        self._recent = _Cache()


class _Cache:
    """The most recently used contents of all threads. Contents are immutable, so entries cannot be stale.

    Two generations, without a lock: a lock that another thread holds during a fork stays locked in the child.
    """

    def __init__(self) -> None:
        self._young: dict[tuple[str, bytes], Content] = {}
        self._old: dict[tuple[str, bytes], Content] = {}
        self._size = 0

    def get(self, thread: str, digests: Iterable[bytes]) -> dict[bytes, Content]:
        found = {}
        for digest in digests:
            key = (thread, digest)
            if content := self._young.get(key) or self._old.get(key):
                found[digest] = content
        return found

    def add(self, thread: str, used: Mapping[bytes, Content]) -> None:
        for digest, content in used.items():
            if (thread, digest) not in self._young:
                self._young[thread, digest] = content
                self._size += len(content[1])
        if self._size > _REMEMBERED:
            self._old, self._young, self._size = self._young, {}, 0


def _in_pages(found: Mapping[bytes, Content]) -> set[bytes]:
    return {digest for _, page in found.values() for digest in split(page)}


def _in_batches(many: Sequence[T]) -> Iterator[Sequence[T]]:
    return (many[start : start + _BATCH] for start in range(0, len(many), _BATCH))
