"""Replaces lists of messages by references to stored messages, and back. Pure functions.

A reference is the digest of a message's bytes. The references of a long list are grouped into pages, which are stored
too: a list that grows at its end keeps its pages and adds a few references.
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
"""Key of the dict that replaces a list of messages."""

_DIGEST_BYTES = 16  # enough to exclude collisions within a thread
_MIN_MESSAGES = 8  # a shorter list is not replaced
_PAGE = 64  # references


Content = tuple[str, bytes]
"""A serialised value: its type as the serialiser names it, and its bytes."""


def digest_of(content: bytes) -> bytes:
    """The digest of a content's bytes."""
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()


def split(joined: bytes) -> list[bytes]:
    """The digests that were concatenated."""
    return [joined[start : start + _DIGEST_BYTES] for start in range(0, len(joined), _DIGEST_BYTES)]


@dataclass(slots=True)
class Packer:
    """Replaces lists of messages by references, and collects the contents to store.

    Attributes:
        serde: Serialises messages.
        contents: The contents to store, by digest.
    """

    serde: SerializerProtocol
    contents: dict[bytes, Content] = field(default_factory=dict)

    def pack(self, value: Any) -> Any:
        """A copy of the value with references in place of long lists of messages, in nested dicts too."""
        if type(value) is dict:
            return {key: self.pack(part) for key, part in value.items()}
        is_long = type(value) is list and len(value) >= _MIN_MESSAGES
        if is_long and all(isinstance(part, BaseMessage) for part in value):
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
        content = plain = self.serde.dumps_typed(message)
        if isinstance(self.serde, EncryptedSerializer):  # Encryption gives other bytes each time.
            plain = self.serde.serde.dumps_typed(message)
        digest = digest_of(plain[1])
        self.contents[digest] = content
        return digest


def references(value: Any) -> tuple[set[bytes], set[bytes]]:
    """The digests of the pages, and the other digests, that a packed value refers to."""
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


def unpack(value: Any, contents: Mapping[bytes, Content], serde: SerializerProtocol) -> Any:
    """A copy of the value with lists of messages in place of references.

    Raises:
        KeyError: A content is missing.
    """
    if type(value) is not dict:
        return value
    if value.keys() != {MARKER}:
        return {key: unpack(part, contents, serde) for key, part in value.items()}
    pages, rest = value[MARKER]
    digests = [digest for page in split(pages) for digest in split(contents[page][1])] + split(rest)
    return [serde.loads_typed(contents[digest]) for digest in digests]


def checkpoint_values(found: CheckpointTuple) -> dict[str, Any]:
    """All values of a checkpoint, as one dict."""
    writes = _write_values(found.pending_writes or [])
    return {"values": found.checkpoint["channel_values"], "writes": writes}


def with_checkpoint_values(found: CheckpointTuple, values: dict[str, Any]) -> CheckpointTuple:
    """A copy of the checkpoint with other :func:`checkpoint_values`."""
    checkpoint = cast(Checkpoint, {**found.checkpoint, "channel_values": values["values"]})
    if found.pending_writes is None:
        return found._replace(checkpoint=checkpoint)
    writes = _with_write_values(found.pending_writes, values["writes"])
    return found._replace(checkpoint=checkpoint, pending_writes=writes)


def history_values(found: Mapping[str, DeltaChannelHistory]) -> dict[str, Any]:
    """All values of a history, as one dict."""
    return {
        name: {"seed": entry.get("seed"), "writes": _write_values(entry["writes"])}
        for name, entry in found.items()
    }


def with_history_values(
    found: Mapping[str, DeltaChannelHistory], values: dict[str, Any]
) -> Mapping[str, DeltaChannelHistory]:
    """A copy of the history with other :func:`history_values`."""
    history: dict[str, DeltaChannelHistory] = {}
    for name, entry in found.items():
        history[name] = {"writes": _with_write_values(entry["writes"], values[name]["writes"])}
        if "seed" in entry:
            history[name]["seed"] = values[name]["seed"]
    return history


def _write_values(writes: Sequence[PendingWrite]) -> dict[int, Any]:
    return {number: value for number, (_, _, value) in enumerate(writes)}


def _with_write_values(writes: Sequence[PendingWrite], values: dict[int, Any]) -> list[PendingWrite]:
    return [(task, channel, values[number]) for number, (task, channel, _) in enumerate(writes)]
