"""`databricks_openai` with `model="apps/NAME"`: it asks the workspace where the app is, and talks to it there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks_openai import AsyncDatabricksOpenAI, DatabricksOpenAI

from tests.clients.chat import directed
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.recorder import Recorder
from tests.support.server_process import ServerProcess

PUBLISH = {"name": "publish", "server_label": "reports", "arguments": {"quarter": "2026-Q3"}}
MODEL = "apps/my-agent"

Create = Callable[..., Any]


@pytest.fixture
def workspace(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceClient]:
    """A workspace in which the server is an app, for whoever logs in with OAuth."""
    with Recorder({"/api/2.0/apps/my-agent": {"name": "my-agent", "url": server.url}}) as running:
        running.answers["/oidc/.well-known/oauth-authorization-server"] = {
            "token_endpoint": f"{running.url}/oidc/v1/token",
            "authorization_endpoint": f"{running.url}/oidc/v1/authorize",
        }
        running.answers["/oidc/v1/token"] = {
            "access_token": "of-the-user",
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        running.answers["/.well-known/databricks-config"] = {"oidc_endpoint": f"{running.url}/oidc"}
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield WorkspaceClient(
            host=running.url, client_id="user", client_secret="secret", auth_type="oauth-m2m"
        )


@pytest.fixture(params=[DatabricksOpenAI, AsyncDatabricksOpenAI])
def create(request: pytest.FixtureRequest, workspace: WorkspaceClient) -> Iterator[Create]:
    """`responses.create` of one of the two clients."""
    client = request.param(workspace_client=workspace)
    if isinstance(client, DatabricksOpenAI):
        yield client.responses.create
        return
    with asyncio.Runner() as loop:
        yield lambda **given: loop.run(client.responses.create(**given))


@pytest.fixture
def question() -> str:
    """A question that no other test asks."""
    return f"Question {uuid.uuid4().hex[:12]}?"


def test_a_turn(create: Create, service: LocalSupervisor, question: str) -> None:
    response = create(model=MODEL, input=[user(directed(question, reply="Hello."))])
    assert response.output_text == "Hello."
    assert service.submissions(question)["count"] == 1


@pytest.mark.parametrize("ids", [{}, {"long_ids": 125}], ids=["short ids", "ids that the client cuts"])
def test_an_approval(create: Create, service: LocalSupervisor, question: str, ids: dict[str, int]) -> None:
    history = [user(directed(question, approvals=[PUBLISH], rounds=[{"reply": "Published."}], **ids))]
    asked = create(model=MODEL, input=history)
    (request,) = asked.output
    answer = {
        "type": "mcp_approval_response",
        "id": request.id,
        "approval_request_id": request.id,
        "approve": True,
    }
    response = create(model=MODEL, input=[*history, request.model_dump(), answer])
    assert response.output_text == "Published."
    assert service.submissions(question)["count"] == 2


def test_what_is_wrong_is_said(create: Create) -> None:
    with pytest.raises(ValueError, match="Nothing was submitted"):
        create(model=MODEL, input=[])


def user(text: str) -> dict[str, Any]:
    """What a person says."""
    return {"role": "user", "content": text}
