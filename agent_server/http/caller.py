"""Who is asking, and which threads are theirs.

The headers of the Databricks Apps proxy say it. They can be trusted as far as the proxy in front of the server can.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote, unquote

from .errors import ApiError


class TokenVault(Protocol):
    """Keeps the latest token of each user, in memory."""

    def remember(self, user: str, token: str) -> bool:
        """Keep a token; whether it is a new one."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking.

    Attributes:
        user: The user whose threads these are; ``""`` if the request names none.
        identity: Name of the identity that the service is asked as; ``None`` for the app's own.
        has_new_token: Whether the request brought a new token of that identity.
    """

    user: str
    identity: str | None = None
    has_new_token: bool = False

    def thread(self, name: str) -> str:
        """LangGraph's id of the thread that this caller knows by that name.

        Example:
            >>> Caller("ann@example.com").thread("t1")
            'ann%40example.com/t1'
            >>> thread_user("ann%40example.com/t1"), thread_name("ann%40example.com/t1")
            ('ann@example.com', 't1')
        """
        return f"{quote(self.user, safe='')}/{name}"

    def owns(self, thread_id: str) -> bool:
        """Whether a thread is this caller's."""
        return thread_id.partition("/")[0] == quote(self.user, safe="") and "/" in thread_id


def thread_name(thread_id: str) -> str:
    """The name that its owner knows a thread by."""
    return thread_id.partition("/")[2]


def thread_user(thread_id: str) -> str:
    """The user who owns a thread; ``""`` if it has none."""
    return unquote(thread_id.partition("/")[0])


def caller_of(headers: Mapping[str, str], vault: TokenVault | None) -> Caller:
    """Who is asking.

    Args:
        headers: The request's headers, by lower-case name.
        vault: Where users' tokens are kept, if the service is asked on their behalf.

    Raises:
        ApiError: 401; the user's token is missing.
    """
    user = headers.get("x-forwarded-user", "").strip() or headers.get("x-forwarded-email", "").strip()
    if vault is None:
        return Caller(user)
    token = headers.get("x-forwarded-access-token", "").strip()
    if not token:
        raise ApiError(
            401,
            "missing_user_token",
            "The agent acts on behalf of its users, and the request has no x-forwarded-access-token. Nothing was "
            "submitted. Open the agent through its Databricks App, with user authorization enabled, or set "
            "SUPERVISOR_AUTH=app.",
        )
    # Without a user's name each token is an identity of its own: one user's token must never serve another.
    identity = user or f"token-{hashlib.sha256(token.encode()).hexdigest()[:16]}"
    return Caller(user, identity, vault.remember(identity, token))
