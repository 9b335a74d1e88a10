"""Contents that are kept once, under the digest of their bytes: one more table of a ledger's database.

A content is never changed, so whoever stores it again changes nothing, and two writers cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Column, Connection, LargeBinary, MetaData, Table, Text, delete, inspect, select
from sqlalchemy.dialects import postgresql, sqlite

from ..ledger.database import Database
from ..ledger.schema import exclusive
from .references import Content, split

T = TypeVar("T")
_ROWS = 200  # in one statement: a database takes only so many parameters

_REMEMBERED = 8_000_000  # bytes, twice: enough for some sixty threads of 500 messages

metadata = MetaData()

contents = Table(
    "supervisor_contents",
    metadata,
    Column("thread", Text, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("type", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
"""One row a content and thread."""

_of_thread = contents.c.thread


class ContentStore:
    """Contents of threads, in a database. Each method gives a piece of work for :meth:`Database.run`.

    Args:
        database: Where; the table is made at first use.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._made = False
        self._recent = _Recent()
        self._insert = postgresql.insert if database.place.dialect == "postgresql" else sqlite.insert

    def set_up(self, connection: Connection) -> None:
        """Make the table; safe when several processes do it at the same time."""
        if not inspect(connection).has_table(contents.name):
            with exclusive(connection):
                metadata.create_all(connection)
        self._made = True

    def put(self, thread: str, new: Mapping[bytes, Content]) -> Callable[[Connection], None]:
        """Store those that are not there. What is there is read each time: another process may delete it."""

        def work(connection: Connection) -> None:
            known = connection.execute(select(contents.c.digest).where(_of_thread == thread)).scalars().all()
            # In order, so that two writers of the same rows cannot wait for each other.
            rows = [
                {"thread": thread, "digest": digest, "type": new[digest][0], "content": new[digest][1]}
                for digest in sorted(new.keys() - set(known))
            ]
            for some in _in_batches(rows):
                connection.execute(self._insert(contents).values(some).on_conflict_do_nothing())
            self._recent.add(thread, new)

        return self._with_table(work)

    def get(
        self, thread: str, pages: Collection[bytes], digests: Collection[bytes]
    ) -> Callable[[Connection], dict[bytes, Content]]:
        """Those that are there of some pages, of what the pages refer to, and of some other contents."""

        def fetch(connection: Connection, wanted: Collection[bytes]) -> dict[bytes, Content]:
            found = self._recent.get(thread, wanted)
            for some in _in_batches([digest for digest in wanted if digest not in found]):
                asked = select(contents.c.digest, contents.c.type, contents.c.content).where(
                    _of_thread == thread, contents.c.digest.in_(some)
                )
                found |= {digest: (kind, content) for digest, kind, content in connection.execute(asked)}
            self._recent.add(thread, found)
            return found

        def work(connection: Connection) -> dict[bytes, Content]:
            found = fetch(connection, pages)
            return found | fetch(connection, _in_pages(found).union(digests))

        return self._with_table(work)

    def recall(
        self, thread: str, pages: Collection[bytes], digests: Collection[bytes]
    ) -> dict[bytes, Content] | None:
        """What :meth:`get` gives, from memory; ``None`` if not all of it is remembered."""
        found = self._recent.get(thread, pages)
        if len(found) < len(pages):
            return None
        wanted = _in_pages(found).union(digests)
        more = self._recent.get(thread, wanted)
        return found | more if len(more) == len(wanted) else None

    def delete(self, thread: str) -> Callable[[Connection], None]:
        """Forget all of a thread."""

        def work(connection: Connection) -> None:
            connection.execute(delete(contents).where(_of_thread == thread))
            self._recent = _Recent()

        return self._with_table(work)

    def _with_table(self, work: Callable[[Connection], T]) -> Callable[[Connection], T]:
        def with_table(connection: Connection) -> T:
            if not self._made:
                self.set_up(connection)
            return work(connection)

        return with_table


class _Recent:
    """The contents that were used last, of all threads; never wrong, as a content is never changed.

    Two generations and no lock: one that another thread holds during a fork stays locked in the child.
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
    return (many[start : start + _ROWS] for start in range(0, len(many), _ROWS))
