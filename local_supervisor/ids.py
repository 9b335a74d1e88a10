"""Ids: unique within their first 64 characters (a cut id still tells items apart) and telling their round."""

from __future__ import annotations

import hashlib
import re
import secrets

_ROUND = re.compile(r"^call_r(\d+)_")


def new_response_id(length: int | None) -> str:
    """A response id of `length` characters (default: 37)."""
    return stretched(f"resp_{secrets.token_hex(16)}", length)


def stretched(text: str, length: int | None) -> str:
    """Lengthen an id with digits that depend on it alone, so that a restart computes the same one."""
    if length is None or length <= len(text):
        return text
    digits = hashlib.sha256(text.encode()).hexdigest()
    missing = length - len(text)
    return text + (digits * (missing // len(digits) + 1))[:missing]


def round_of_call(call_id: str) -> int | None:
    """The round that asked for this call, None when the id was not made here."""
    found = _ROUND.match(call_id)
    return int(found.group(1)) if found else None


class IdFactory:
    """Item and call ids of one response.

    Args:
        response_id: The response that they belong to.
        round_number: Round of the turn, kept in call ids so that a follow-up can be counted without state.
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
        return stretched(f"{prefix}_{self._seed}{self._count:04d}", self._length)

    def call(self) -> str:
        """The next call id."""
        self._count += 1
        return stretched(f"call_r{self._round}_{self._seed}{self._count:04d}", self._call_length)

    def approval(self) -> str:
        """The next approval request's id: an item's id and a call's at once."""
        self._count += 1
        return stretched(
            f"call_r{self._round}_{self._seed}{self._count:04d}", self._length or self._call_length
        )
