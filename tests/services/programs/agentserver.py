"""An agent on Azure's agent server: ``python agentserver.py FOLDER PORT``.

Each job is a line of ``FOLDER/REFERENCE.jobs``. Runs of tools are reported with the package's own builder.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from azure.ai.agentserver.responses import ResponseContext, ResponseEventStream, ResponsesAgentServerHost
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from rules import Conversation, Step, advance, note, pass_gates, play, reference_of, steps_of

folder = Path(sys.argv[1])
app = ResponsesAgentServerHost()


@app.response_handler
async def handle(request: Any, context: ResponseContext, cancelled: asyncio.Event) -> AsyncIterator[Any]:
    """Answer one request."""
    stream = ResponseEventStream(response_id=context.response_id, request=request)
    yield stream.emit_created()
    yield stream.emit_in_progress()
    items = [dict(item) for item in [*await context.get_history(), *await context.get_input_items()]]
    conversation = Conversation.read(items)
    note(folder / f"{reference_of(conversation.question)}.jobs", context.response_id)
    server = next((tool for tool in request.get("tools") or [] if tool["type"] == "mcp"), {})
    acts = play(conversation, server.get("require_approval", "always") != "never")
    result: str | None = None
    while True:
        act = advance(acts, result)
        if act is None:
            break
        result = None
        if act.kind == "run":
            result = await run(server["server_url"], act.step)
            call = stream.add_output_item_mcp_call(server["server_label"], act.step.tool)
            yield call.emit_added()
            yield call.emit_arguments_done(act.step.arguments)
            yield call.emit_completed()
            yield call.emit_done(output=result)
        elif act.kind == "ask":
            for event in stream.output_item_mcp_approval_request(
                server["server_label"], act.step.tool, act.step.arguments
            ):
                yield event
        elif act.kind == "call":
            call_id = f"call_{context.response_id[-12:]}"
            for event in stream.output_item_function_call(act.step.tool, call_id, act.step.arguments):
                yield event
        else:
            await wait_at_gates(conversation.question, cancelled)
            if cancelled.is_set():
                return
            for event in stream.output_item_message(act.text):
                yield event
    yield stream.emit_completed()


async def run(url: str, step: Step) -> str:
    """Run a tool at the MCP server."""
    async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        result = await session.call_tool(step.tool, json.loads(step.arguments))
    return str(getattr(result.content[0], "text", ""))


async def wait_at_gates(question: str, cancelled: asyncio.Event) -> None:
    """Wait for the gates that a question names."""
    await asyncio.to_thread(pass_gates, steps_of(question), folder, lambda: not cancelled.is_set())


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[2]))
