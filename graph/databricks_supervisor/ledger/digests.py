"""What names a content: the digest of its bytes."""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["Content", "digest_of", "split"]

Content = tuple[str, bytes]
"""What a serialiser makes of a value: the kind of its bytes, and the bytes."""

_BYTES = 16  # No two contents of a thread have the same digest by chance.


def digest_of(content: bytes) -> bytes:
    """The digest of a content's bytes."""
    return blake2b(content, digest_size=_BYTES).digest()


def split(joined: bytes) -> list[bytes]:
    """The digests in a row of them."""
    return [joined[start : start + _BYTES] for start in range(0, len(joined), _BYTES)]
