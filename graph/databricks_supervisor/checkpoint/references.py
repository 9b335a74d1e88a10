"""Lists of messages ↔ references to messages that are kept elsewhere, each once. Pure functions.

A reference is the digest of a message's bytes. References of a long list are kept in pages of their own, so
that a list that grows at its end has the same pages as before and a few references more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import Checkpoint, CheckpointTuple, DeltaChannelHistory, PendingWrite
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

MARKER = "messages kept by databricks_supervisor.DeduplicatingSaver"
"""Key of what stands for a list of messages."""

_BYTES = 16  # No two contents of a thread have the same digest by chance.
_LONG = 8  # messages: a shorter list is left as it is
_PAGE = 64  # references


Content = tuple[str, bytes]
"""What a serialiser makes of a value: the kind of its bytes, and the bytes."""


def digest_of(content: bytes) -> bytes:
    """The digest of a content's bytes."""
    return blake2b(content, digest_size=_BYTES).digest()


def split(joined: bytes) -> list[bytes]:
    """The digests in a row of them."""
    return [joined[start : start + _BYTES] for start in range(0, len(joined), _BYTES)]


@dataclass(slots=True)
class Packer:
    """Replaces lists of messages, and says what has to be kept for it.

    Attributes:
        serde: Serialises messages.
        contents: What has to be kept, by digest.
    """

    serde: SerializerProtocol
    contents: dict[bytes, Content] = field(default_factory=dict)

    def pack(self, value: Any) -> Any:
        """The value with references in place of long lists of messages, in dicts too. It is not changed."""
        if type(value) is dict:
            return {key: self.pack(part) for key, part in value.items()}
        if _is_long(value):
            return {MARKER: self._references(value)}
        return value

    def _references(self, messages: list[BaseMessage]) -> list[bytes]:
        digests = [self._digest(message) for message in messages]
        full = len(digests) - len(digests) % _PAGE
        pages = []
        for start in range(0, full, _PAGE):
            page = b"".join(digests[start : start + _PAGE])
            pages.append(digest_of(page))
            self.contents[pages[-1]] = ("page", page)
        return [b"".join(pages), b"".join(digests[full:])]

    def _digest(self, message: BaseMessage) -> bytes:
        if isinstance(self.serde, EncryptedSerializer):  # It gives other bytes each time.
            digest = digest_of(self.serde.serde.dumps_typed(message)[1])
            self.contents[digest] = self.serde.dumps_typed(message)
        else:
            content = self.serde.dumps_typed(message)
            digest = digest_of(content[1])
            self.contents[digest] = content
        return digest


def references(value: Any) -> tuple[set[bytes], set[bytes]]:
    """The pages and the further digests that stand for lists in a value."""
    pages: set[bytes] = set()
    digests: set[bytes] = set()
    for some_pages, some_digests in _references(value):
        pages.update(split(some_pages))
        digests.update(split(some_digests))
    return pages, digests


def _references(value: Any) -> Iterator[list[bytes]]:
    if type(value) is dict:
        if value.keys() == {MARKER}:
            yield value[MARKER]
        else:
            for part in value.values():
                yield from _references(part)


def unpacked(value: Any, contents: Mapping[bytes, Content], serde: SerializerProtocol) -> Any:
    """The value with lists of messages in place of references. It is not changed.

    Raises:
        KeyError: A content is missing.
    """
    if type(value) is not dict:
        return value
    if value.keys() != {MARKER}:
        return {key: unpacked(part, contents, serde) for key, part in value.items()}
    pages, rest = value[MARKER]
    digests = [digest for page in split(pages) for digest in split(contents[page][1])] + split(rest)
    return [serde.loads_typed(contents[digest]) for digest in digests]


def _is_long(value: Any) -> bool:
    return (
        type(value) is list and len(value) >= _LONG and all(isinstance(part, BaseMessage) for part in value)
    )


def of_values(found: CheckpointTuple) -> dict[str, Any]:
    """The values of a checkpoint, as one value."""
    return {"values": found.checkpoint["channel_values"], "writes": _of_writes(found.pending_writes or [])}


def with_values(found: CheckpointTuple, restored: dict[str, Any]) -> CheckpointTuple:
    """The checkpoint with such a value. It is not changed."""
    checkpoint = cast(Checkpoint, {**found.checkpoint, "channel_values": restored["values"]})
    if found.pending_writes is None:
        return found._replace(checkpoint=checkpoint)
    writes = _with_writes(found.pending_writes, restored["writes"])
    return found._replace(checkpoint=checkpoint, pending_writes=writes)


def _of_writes(writes: Sequence[PendingWrite]) -> dict[int, Any]:
    return {number: value for number, (_, _, value) in enumerate(writes)}


def _with_writes(writes: Sequence[PendingWrite], restored: dict[int, Any]) -> list[PendingWrite]:
    return [(task, channel, restored[number]) for number, (task, channel, _) in enumerate(writes)]


def of_history(found: Mapping[str, DeltaChannelHistory]) -> dict[str, Any]:
    """The values of a history, as one value."""
    return {
        name: {"seed": entry.get("seed"), "writes": _of_writes(entry["writes"])}
        for name, entry in found.items()
    }


def with_history(
    found: Mapping[str, DeltaChannelHistory], restored: dict[str, Any]
) -> Mapping[str, DeltaChannelHistory]:
    """The history with such a value. It is not changed."""
    whole: dict[str, DeltaChannelHistory] = {}
    for name, entry in found.items():
        whole[name] = {"writes": _with_writes(entry["writes"], restored[name]["writes"])}
        if "seed" in entry:
            whole[name]["seed"] = restored[name]["seed"]
    return whole
