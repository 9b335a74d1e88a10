"""Postgres: whether its packages are installed, how it is connected to, and what its errors say.

Imports nothing heavy: psycopg is loaded when it is needed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ..errors import StateError

CONNECT_WITHIN_S = 5


def postgres_conninfo(url: str) -> str:
    """A state URL as psycopg takes it."""
    return "postgresql://" + url.partition("://")[2]


def require_packages(database: str, extra: str, *names: str) -> None:
    """Check that the packages of a database are installed, without the seconds that it takes to import some of them.

    Args:
        database: What to call it.
        extra: The extra of this project that has them.
        names: Their modules, besides psycopg.

    Raises:
        StateError: One is not installed, or psycopg cannot be loaded.
    """
    try:
        import psycopg  # noqa: F401

        complete = all(find_spec(name) for name in names)
    except ImportError:
        complete = False
    if not complete:
        raise StateError(
            f"SUPERVISOR_STATE_URL: {database} needs more packages: uv sync --package supervisor-agent-server "
            f"--extra {extra}."
        )


def try_connection(conninfo: str, **options: Any) -> None:
    """Connect once. Blocks for a few seconds at most.

    Raises:
        StateError: That is not possible.
    """
    import psycopg

    try:
        psycopg.connect(conninfo, connect_timeout=CONNECT_WITHIN_S, **options).close()
    except psycopg.Error as error:
        raise postgres_error(error) from None


def postgres_error(error: BaseException) -> StateError:
    """Why Postgres cannot be opened, in one line without the URL."""
    from psycopg import OperationalError

    # What did not come from the server or the network is about the URL, and quotes it, the password included.
    if not isinstance(error, OperationalError) and getattr(error, "sqlstate", None) is None:
        return StateError("SUPERVISOR_STATE_URL: that is not a URL that psycopg can read.")
    from databricks_supervisor.redaction import scrub

    reason = scrub(str(error).strip().partition("\n")[0])
    return StateError(f"SUPERVISOR_STATE_URL: the database cannot be opened: {reason}.")
