"""No credential is written anywhere: not to the stores, not to the log, not to the output, whatever fails."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from psycopg import sql

from tests.e2e.forked_processes import ForkServer
from tests.e2e.scenario import PACE, Scenario, Store
from tests.support.local_supervisor_process import LocalSupervisor

TOKEN = f"canary{uuid.uuid4().hex}"
"""Looks like no known kind of token, so that only who knows it can take it out of a text."""

SAID = f"The token {TOKEN} is not welcome here."
FAULTS: dict[str, dict[str, Any]] = {
    "answered": {},
    "401 at the POST": {"create_error_forever": {"status": 401, "message": SAID}},
    "403 at the POST": {"create_error_forever": {"status": 403, "message": SAID}},
    "400 at the POST": {
        "create_error_forever": {"status": 400, "code": "INVALID_PARAMETER_VALUE", "message": SAID}
    },
    "500 at the POST": {"create_error_forever": {"status": 500, "message": SAID}},
    "401 at a poll": {"retrieve_error_forever": {"status": 401, "message": SAID}},
    "403 at a poll": {"retrieve_error_forever": {"status": 403, "message": SAID}},
    "500 at a poll": {"retrieve_errors": [{"status": 500, "message": SAID}]},
    "failed": {"final_status": "failed", "error": {"code": "x", "message": f"Authorization: Bearer {TOKEN}"}},
    "error in completed": {
        "error_in_completed": True,
        "error": {"code": "x", "message": f"Authorization: Bearer {TOKEN}"},
    },
}
ENDS = {
    "answered": None,
    "401 at the POST": "AuthenticationError",
    "403 at the POST": "PermissionDeniedError",
    "400 at the POST": "RequestRejectedError",
    "500 at the POST": None,
    "401 at a poll": "AuthenticationError",
    "403 at a poll": "PermissionDeniedError",
    "500 at a poll": None,
    "failed": "JobFailedError",
    "error in completed": "JobFailedError",
}


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of this test's own, so that all of it can be looked through."""
    if request.param == "sqlite":
        yield Store("sqlite", str(tmp_path / "store" / "thread.sqlite"))
        return
    with request.getfixturevalue("postgres_server").database() as url:
        with PostgresSaver.from_conn_string(url) as saver:
            saver.setup()
        yield Store("postgres", url)


def test_no_credential_is_stored_logged_or_shown(
    store: Store, fork_server: ForkServer, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    log, heard = tmp_path / "log.txt", []
    with LocalSupervisor(tmp_path / "service", token=TOKEN) as service:
        for name, behaviour in FAULTS.items():
            service.clear_behaviour()
            service.set_behaviour(**behaviour)
            scenario = Scenario(fork_server, service, store, behaviour={**PACE, "duration_s": 0.2}, log=log)
            scenario.spec = {"token": TOKEN, "debug": True}
            run = scenario.start(scenario.again)
            end = run.end()
            assert end.get("error") == ENDS[name], (name, end)
            heard.append(json.dumps(run.events))
    said = log.read_bytes()
    assert len(said) > 10_000, "the log is on"
    for what, found in (("log", said), ("output", "".join(heard).encode()), ("store", content(store))):
        assert len(found) > 1000
        assert b"[redacted] is not welcome here" in found, f"the {what} has what the service said"
        at = found.find(TOKEN.encode())
        assert at < 0, f"the {what} has the token: …{found[max(0, at - 500) : at + 100]!r}"


def content(store: Store) -> bytes:
    """Every byte that the store holds."""
    if store.kind == "sqlite":
        return b"".join(file.read_bytes() for file in Path(store.address).parent.iterdir())
    found = []
    with psycopg.connect(store.address) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            for row in connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))):
                found += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return b"\n".join(found)
