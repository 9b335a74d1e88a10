"""Ids: unique in their first 64 characters (so truncated ids stay unique); call ids contain their round."""

from __future__ import annotations

import hashlib
import re
import secrets

_ROUND = re.compile(r"^call_r(\d+)_")


def new_response_id(length: int | None) -> str:
    """A response id of `length` characters (default: 37)."""
    return lengthened(f"resp_{secrets.token_hex(16)}", length)


def lengthened(text: str, length: int | None) -> str:
    """Lengthen an id with digits derived from it, so that the result is the same after a restart."""
    if length is None or length <= len(text):
        return text
    digits = hashlib.sha256(text.encode()).hexdigest()
    missing = length - len(text)
    return text + (digits * (missing // len(digits) + 1))[:missing]


def round_of_call(call_id: str) -> int | None:
    """The round of this call; None if the id was not created here."""
    found = _ROUND.match(call_id)
    return int(found.group(1)) if found else None


class IdFactory:
    """Item and call ids of one response.

    Args:
        response_id: Id of the response.
        round_number: Round of the turn; call ids contain it, so that a follow-up's round is known without state.
        length: Length of item ids. call_length: Length of call ids.
    """

    def __init__(
        self, response_id: str, round_number: int, length: int | None = None, call_length: int | None = None
    ) -> None:
        self._seed = hashlib.sha256(response_id.encode()).hexdigest()[:20]
        self._round = round_number
        self._length = length
        self._call_length = call_length
        self._count = 0

    def item(self, prefix: str) -> str:
        """The next item id."""
        self._count += 1
        return lengthened(f"{prefix}_{self._seed}{self._count:04d}", self._length)

    def call(self) -> str:
        """The next call id."""
        self._count += 1
        return lengthened(f"call_r{self._round}_{self._seed}{self._count:04d}", self._call_length)

    def approval(self) -> str:
        """The next approval request's id, which is an item id and a call id."""
        self._count += 1
        return lengthened(
            f"call_r{self._round}_{self._seed}{self._count:04d}", self._length or self._call_length
        )
