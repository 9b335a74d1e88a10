"""Who is asking, and which threads are theirs.

The headers of the Databricks Apps proxy say it. They are worth what stands in front of the server is worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from .errors import ApiError


class TokenVault(Protocol):
    """Keeps the latest token of each user, in memory."""

    def remember(self, user: str, token: str) -> bool:
        """Keep it; whether it is a new one."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking.

    Attributes:
        user: Whose threads these are; ``""`` for nobody in particular.
        identity: Name of the identity that the service is asked as; ``None`` for the app's own.
        has_new_token: Whether a new token of that identity came with the request.
    """

    user: str
    identity: str | None = None
    has_new_token: bool = False

    def thread(self, name: str) -> str:
        """LangGraph's id of the thread that this caller knows by that name.

        Example:
            >>> Caller("ann@example.com").thread("t1")
            'ann%40example.com/t1'
        """
        return f"{quote(self.user, safe='')}/{name}"

    def owns(self, thread_id: str) -> bool:
        """Whether a thread is this caller's."""
        return thread_id.partition("/")[0] == quote(self.user, safe="") and "/" in thread_id

    @staticmethod
    def name_of(thread_id: str) -> str:
        """The name that its owner knows a thread by."""
        return thread_id.partition("/")[2]


def caller_of(headers: Mapping[str, str], vault: TokenVault | None) -> Caller:
    """Who is asking.

    Args:
        headers: The request's headers, by lower-case name.
        vault: Where tokens of users are kept, if the service is asked on their behalf.

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
    # Without a name each token is an identity of its own: one user's must never serve another.
    identity = user or f"token-{hashlib.sha256(token.encode()).hexdigest()[:16]}"
    return Caller(user, identity, vault.remember(identity, token))
