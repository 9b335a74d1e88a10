"""Clients of each service, at a real HTTP server: the right path, asked with the right credential."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_server.backend.backend import find_backend
from agent_server.errors import UsageError
from agent_server.settings import AppSettings
from databricks_supervisor.client.responses import SupervisorClient
from databricks_supervisor.errors import ConfigurationError
from tests.support.recorder import Recorder

JOB = {"id": "resp_1", "status": "completed", "output": []}
SUPERVISOR = "/ai-gateway/mlflow/v1/responses"


def settings(**given: Any) -> AppSettings:
    return AppSettings(_env_file=None, **given)


def answers(path: str) -> dict[str, Any]:
    return {path: JOB, f"{path}/resp_1": JOB}


@pytest.fixture(autouse=True)
def _no_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("DATABRICKS_", "SUPERVISOR_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "cfg"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A workspace where a service principal can log in."""
    with Recorder(answers(SUPERVISOR)) as running:
        token = f"{running.url}/oidc/v1/token"
        oidc = {"token_endpoint": token, "authorization_endpoint": f"{running.url}/oidc/v1/authorize"}
        running.answers["/.well-known/databricks-config"] = {"oidc_endpoint": f"{running.url}/oidc"}
        running.answers["/oidc/.well-known/oauth-authorization-server"] = oidc
        running.answers["/oidc/v1/token"] = {
            "access_token": "oauth-of-the-app",
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        monkeypatch.setenv("DATABRICKS_HOST", running.url)
        yield running


@pytest.fixture
def service_principal(monkeypatch: pytest.MonkeyPatch, workspace: Recorder) -> Recorder:
    """The workspace, with the login that an app has."""
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "principal")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "s3cret")
    return workspace


async def ask(client: Any) -> str:
    """Create and retrieve a job as the graph does."""
    service = SupervisorClient(client)
    created = await service.create({"model": "m", "input": []}, idempotency_key="k", timeout_s=5)
    return (await service.retrieve(created.id, timeout_s=5)).status


async def test_the_supervisor_is_asked_in_the_name_of_the_process(
    monkeypatch: pytest.MonkeyPatch, workspace: Recorder
) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "token-of-the-process")
    assert await ask(await find_backend(settings()).start()(None)) == "completed"
    asked = workspace.of(SUPERVISOR) + workspace.of(f"{SUPERVISOR}/resp_1")
    assert [(each.method, each.authorization) for each in asked] == [
        ("POST", "Bearer token-of-the-process"),
        ("GET", "Bearer token-of-the-process"),
    ]


async def test_the_supervisor_is_asked_with_a_users_token_beside_the_login_of_the_app(
    service_principal: Recorder,
) -> None:
    client = await find_backend(settings()).connect()("token-of-ann")
    assert await ask(client) == "completed"
    assert [each.authorization for each in service_principal.of(SUPERVISOR)] == ["Bearer token-of-ann"]
    assert not service_principal.of("/oidc/v1/token")


async def test_an_app_is_looked_up_by_name_and_asked_at_its_own_address(service_principal: Recorder) -> None:
    with Recorder(answers("/responses")) as app:
        service_principal.answers["/api/2.0/apps/sales-agent"] = {"name": "sales-agent", "url": f"{app.url}/"}
        backend = find_backend(settings(backend="apps/sales-agent"))
        assert await ask(await backend.start()(None)) == "completed"
    asked = [(each.method, each.path, each.authorization) for each in app.asked]
    bearer = "Bearer oauth-of-the-app"
    assert asked == [("POST", "/responses", bearer), ("GET", "/responses/resp_1", bearer)]
    assert not service_principal.of(SUPERVISOR)


async def test_an_app_that_does_not_exist(service_principal: Recorder) -> None:
    client = find_backend(settings(backend="apps/missing")).start()
    with pytest.raises(ConfigurationError, match=r"app missing of .* Nothing was submitted"):
        await client(None)


async def test_an_app_that_was_never_deployed(service_principal: Recorder) -> None:
    service_principal.answers["/api/2.0/apps/new"] = {"name": "new"}
    with pytest.raises(ConfigurationError, match="deployed"):
        await find_backend(settings(backend="apps/new")).start()(None)


async def test_any_service_of_background_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    with Recorder(answers("/v1/responses")) as service:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{service.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "key-1")
        backend = find_backend(settings(backend="openai", model="gpt"))
        assert await ask(await backend.start()(None)) == "completed"
    assert {(each.path, each.authorization) for each in service.asked} == {
        ("/v1/responses", "Bearer key-1"),
        ("/v1/responses/resp_1", "Bearer key-1"),
    }


async def test_a_post_is_never_repeated_by_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    with Recorder({}) as service:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{service.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "key-1")
        client = await find_backend(settings(backend="openai", model="gpt")).start()(None)
        assert client.max_retries == 0


async def test_a_named_identity_never_becomes_the_process(
    monkeypatch: pytest.MonkeyPatch, workspace: Recorder
) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "token-of-the-process")
    with pytest.raises(ConfigurationError, match="ann"):
        await find_backend(settings()).start()("ann")


def test_openai_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:hunter2@127.0.0.1:9/v1")
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as raised:
        find_backend(settings(backend="openai", model="gpt"))
    assert "hunter2" not in str(raised.value)
    monkeypatch.setenv("OPENAI_API_KEY", "key-1")
    monkeypatch.setenv("OPENAI_BASE_URL", "ftp://user:hunter2@host")
    with pytest.raises(UsageError, match=r"^OPENAI_BASE_URL=ftp://host: not the address") as raised:
        find_backend(settings(backend="openai", model="gpt"))
    assert "hunter2" not in str(raised.value)


def test_an_app_needs_a_workspace() -> None:
    with pytest.raises(UsageError, match="No workspace is configured"):
        find_backend(settings(backend="apps/sales-agent"))


def test_the_local_supervisor_answers_whatever_is_configured(workspace: Recorder) -> None:
    assert find_backend(settings(local=True)).local
    assert find_backend(settings(local=True, backend="apps/sales-agent")).local
