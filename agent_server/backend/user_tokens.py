"""Users' own credentials: each job is submitted and read with the token of its user.

Databricks Apps send it with each request (``x-forwarded-access-token``). It cannot be refreshed here and may
end during a job; the next request of that user brings another one. Tokens are kept in memory alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn

from .backend import Backend

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MOST_USERS = 10_000


class UserTokens:
    """The latest token of each user that this process has seen.

    May be used from any thread. It cannot be pickled or copied, and its ``repr`` shows no token.

    Args:
        most: How many users; the one who was not seen for longest is forgotten first.

    Example:
        >>> tokens = UserTokens()
        >>> tokens.remember("ann@example.com", "token-1"), tokens.remember("ann@example.com", "token-1")
        (True, False)
        >>> tokens
        UserTokens(1 user)
    """

    __slots__ = ("_lock", "_most", "_tokens")

    def __init__(self, most: int = MOST_USERS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._tokens: OrderedDict[str, str] = OrderedDict()

    def remember(self, user: str, token: str) -> bool:
        """Keep the token that came with a request, in place of an earlier one.

        Args:
            user: The user's name, which is the identity of the user's runs.
            token: The value of ``x-forwarded-access-token``.

        Returns:
            Whether it is a new one, so that clients with the one before are stale.

        Raises:
            ValueError: The user or the token is blank.
        """
        user, token = user.strip(), token.strip()
        if not user or not token:
            raise ValueError("a user and a token are needed")
        with self._lock:
            before = self._tokens.get(user)
            self._tokens[user] = token
            self._tokens.move_to_end(user)
            while len(self._tokens) > self._most:
                self._tokens.popitem(last=False)
        return before != token

    def client_factory(self, backend: Backend) -> Callable[[str | None], Awaitable[AsyncOpenAI]]:
        """Begin to find the service, and build its clients with users' tokens.

        Returns:
            A ``client_factory`` for the graph. For an identity without a token, and for none, it raises
            ``AuthenticationError``: it never asks in the process's own name.
        """
        build = backend.connect()

        async def client(identity: str | None) -> AsyncOpenAI:
            with self._lock:
                token = self._tokens.get((identity or "").strip())
            if token is None:
                from databricks_supervisor.errors import AuthenticationError

                raise AuthenticationError(
                    f"No token of {identity or 'a user'} is known here (SUPERVISOR_AUTH=user): it needs that "
                    "user's next request. The thread keeps what it has."
                )
            return await build(token)

        return client

    def __repr__(self) -> str:
        count = len(self._tokens)
        return f"UserTokens({count} user{'' if count == 1 else 's'})"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("users' tokens are not to be stored")
