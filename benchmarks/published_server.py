"""The published server, built as in its template, to measure its start."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import mlflow
from databricks.sdk import WorkspaceClient
from databricks_openai import AsyncDatabricksOpenAI
from mlflow.genai.agent_server import AgentServer, invoke, stream
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent

mlflow.openai.autolog()


def _client() -> AsyncDatabricksOpenAI:
    return AsyncDatabricksOpenAI(workspace_client=WorkspaceClient(), use_ai_gateway=True)


@invoke()
async def invoke_handler(request: ResponsesAgentRequest) -> ResponsesAgentResponse:
    """Not called: only the start is measured."""
    raise NotImplementedError(request)


@stream()
async def stream_handler(
    request: ResponsesAgentRequest,
) -> AsyncGenerator[ResponsesAgentStreamEvent, None]:
    """Not called: only the start is measured."""
    raise NotImplementedError(request)
    yield


app = AgentServer("ResponsesAgent", enable_chat_proxy=True).app
