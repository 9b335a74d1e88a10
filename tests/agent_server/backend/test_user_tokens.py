"""Users' tokens: each user asks with their own, nobody with another's, and nothing keeps them."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_server.backend.backend import find_backend
from agent_server.backend.user_tokens import UserTokens
from agent_server.settings import AppSettings
from databricks_supervisor.client.responses import SupervisorClient
from databricks_supervisor.errors import AuthenticationError
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.processes import environment, no_local_supervisor_left

BODY = {"model": "m", "background": True, "input": [{"role": "user", "content": "Which product sold best?"}]}


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch, service: LocalSupervisor) -> LocalSupervisor:
    """The workspace of an app that has a login of its own."""
    for name in os.environ:
        if name.startswith(("DATABRICKS_", "SUPERVISOR_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_HOST", service.url)
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "principal")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "s3cret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return service


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:12]


async def submit(client: Any) -> str:
    return (await SupervisorClient(client).create(BODY, idempotency_key=os.urandom(8).hex(), timeout_s=5)).id


async def test_each_user_asks_with_the_latest_token_of_their_own(workspace: LocalSupervisor) -> None:
    tokens = UserTokens()
    factory = tokens.client_factory(find_backend(AppSettings(_env_file=None, auth="user")))
    asked = []
    for user, token in (("ann", "token-a1"), ("bob", "token-b1"), ("ann", "token-a2")):
        assert tokens.remember(user, token)
        asked.append((token, await submit(await factory(user))))
    assert [workspace.job(job)["bearer"] for _, job in asked] == [digest(token) for token, _ in asked]


async def test_without_a_token_nobody_is_asked(workspace: LocalSupervisor) -> None:
    tokens = UserTokens()
    tokens.remember("ann", "token-a")
    factory = tokens.client_factory(find_backend(AppSettings(_env_file=None, auth="user")))
    for identity in ("bob", "", None):
        with pytest.raises(AuthenticationError, match="needs that user's next request"):
            await factory(identity)
    assert workspace.submissions()["posts"] == 0


def test_only_another_token_is_a_new_one() -> None:
    tokens = UserTokens()
    said = [tokens.remember(*given) for given in (("ann", "a1"), ("ann", "a1"), ("bob", "a1"), ("ann", "a2"))]
    assert said == [True, False, True, True]
    for user, token in (("", "token"), ("ann", " ")):
        with pytest.raises(ValueError, match="needed"):
            tokens.remember(user, token)


async def test_whoever_was_not_seen_for_longest_is_forgotten_first(workspace: LocalSupervisor) -> None:
    tokens = UserTokens(most=2)
    for user in ("ann", "bob", "ann", "eve"):
        tokens.remember(user, f"token-of-{user}")
    factory = tokens.client_factory(find_backend(AppSettings(_env_file=None, auth="user")))
    with pytest.raises(AuthenticationError):
        await factory("bob")
    for user in ("ann", "eve"):
        assert workspace.job(await submit(await factory(user)))["bearer"] == digest(f"token-of-{user}")


def test_nothing_shows_or_stores_them() -> None:
    tokens = UserTokens()
    tokens.remember("ann", "hunter2")
    assert repr(tokens) == "UserTokens(1 user)"
    for store in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not to be stored"):
            store(tokens)
    with pytest.raises(TypeError):
        vars(tokens)
    with pytest.raises(TypeError):
        json.dumps(tokens)


ASK_LOCALLY = """
import asyncio, json, sys
import httpx
from agent_server.backend.backend import find_backend
from agent_server.backend.user_tokens import UserTokens
from agent_server.settings import load_settings
from databricks_supervisor.client.responses import SupervisorClient

async def main():
    tokens = UserTokens()
    factory = tokens.client_factory(find_backend(load_settings(local=True)))
    for user in ("ann", "bob"):
        tokens.remember(user, f"token-of-{user}")
        client = await factory(user)
        job = await SupervisorClient(client).create(json.loads(sys.argv[1]), idempotency_key=user, timeout_s=5)
        base = str(client.base_url).partition("/ai-gateway")[0]
        print(httpx.get(f"{base}/_local/jobs/{job.id}", trust_env=False).json()["bearer"])

asyncio.run(main())
"""


def test_the_local_supervisor_sees_which_user_asks(here: Path) -> None:
    with no_local_supervisor_left(here):
        done = subprocess.run(
            [sys.executable, "-c", ASK_LOCALLY, json.dumps(BODY)],
            cwd=here,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.stdout.split() == [digest("token-of-ann"), digest("token-of-bob")], done.stderr
