"""SUPERVISOR_STATE_URL: what it may say. Imports nothing heavy.

sqlite:///relative.sqlite · sqlite:////absolute.sqlite        one machine
postgresql://user:password@host:5432/database                 several machines
lakebase://INSTANCE                                           a provisioned Lakebase instance
lakebase://projects/P/branches/B/endpoints/E                  an endpoint of Lakebase Autoscaling
lakebase://…?schema=NAME                                      the tables in a schema of their own
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from ..errors import StateError

_ALLOWED = (
    "must be sqlite:///path/to/state.sqlite, postgresql://user:password@host/database, lakebase://INSTANCE or "
    "lakebase://projects/PROJECT/branches/BRANCH/endpoints/ENDPOINT"
)
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_ENDPOINT = re.compile(r"projects/[^/\s]+/branches/[^/\s]+/endpoints/[^/\s]+")


@dataclass(frozen=True, slots=True)
class LakebaseUrl:
    """A Lakebase database.

    Attributes:
        instance: Name of a provisioned instance; ``None`` for an endpoint.
        endpoint: Resource name of an autoscaling endpoint; ``None`` for an instance.
        schema: Postgres schema that holds the tables; ``None`` for the default one.

    Example:
        >>> parse_lakebase("lakebase://agents?schema=supervisor")
        LakebaseUrl(instance='agents', endpoint=None, schema='supervisor')
    """

    instance: str | None
    endpoint: str | None
    schema: str | None = None


def parse_lakebase(url: str) -> LakebaseUrl:
    """Read a ``lakebase://`` URL.

    Raises:
        ValueError: It is not one; the text says what one looks like, and does not quote it.
    """
    name, _, query = url.partition("://")[2].partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    schema = options.pop("schema", None)
    if options or schema == "":
        raise ValueError("a lakebase:// URL has one option, ?schema=NAME")
    if _ENDPOINT.fullmatch(name):
        return LakebaseUrl(None, name, schema)
    if _INSTANCE.fullmatch(name):
        return LakebaseUrl(name, None, schema)
    raise ValueError(_ALLOWED)


def check_state_url(url: str) -> None:
    """Check the form of a state URL.

    Raises:
        ValueError: It is none; the text does not quote it, for it may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    backend, _, driver = scheme.partition("+")
    if separator and backend == "lakebase" and not driver:
        parse_lakebase(url)
        return
    if separator and backend == "sqlite" and driver in ("", "aiosqlite"):
        path = rest[1:] if rest.startswith("/") else ""
        if path and path != ":memory:" and "?" not in path:
            return
    elif separator and backend in ("postgresql", "postgres") and driver in ("", "psycopg"):
        _check_authority(rest)
        return
    raise ValueError(_ALLOWED)


def _check_authority(rest: str) -> None:
    try:
        _ = urlsplit(f"//{rest}").port
    except ValueError:
        # Not chained: the reason quotes what was taken for a port, such as a password with a slash.
        raise ValueError("host and port cannot be read (percent-encode special characters)") from None


def is_sqlite(url: str) -> bool:
    """Whether a state URL names a SQLite file."""
    return url.startswith("sqlite")


def is_lakebase(url: str) -> bool:
    """Whether a state URL names a Lakebase database."""
    return url.startswith("lakebase")


def describe_state(url: str) -> str:
    """Where the state is, in words without a password.

    Example:
        >>> describe_state("postgresql://app:secret@db.example:5432/agents")
        'Postgres db.example:5432/agents'
    """
    if is_sqlite(url):
        return url.partition("://")[2][1:]
    if is_lakebase(url):
        return f"Lakebase {url.partition('://')[2]}"
    address = urlsplit(url)
    return f"Postgres {address.netloc.rpartition('@')[2]}{address.path}"


def sqlite_file(url: str) -> str:
    """The absolute path that a URL names; its folder is made. Blocks.

    Raises:
        StateError: The folder cannot be made.
    """
    path = os.path.abspath(url.partition("://")[2][1:])
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise StateError(f"SUPERVISOR_STATE_URL: {path} cannot be made: {error.strerror}.") from None
    return path
