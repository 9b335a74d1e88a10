"""A model that follows :mod:`rules`, behind the chat completions API: ``python model.py FOLDER PORT_FILE``."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from rules import answer, next_step, pass_gates, steps_of, text_of
from serve import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

folder = Path(sys.argv[1])


async def models(_: Request) -> JSONResponse:
    """``GET /v1/models``."""
    return JSONResponse({"object": "list", "data": [{"id": "rules", "object": "model", "created": 0}]})


async def complete(request: Request) -> JSONResponse | StreamingResponse:
    """``POST /v1/chat/completions``."""
    body = await request.json()
    message = await asyncio.to_thread(reply, body["messages"])
    reason = "tool_calls" if "tool_calls" in message else "stop"
    whole = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": 0, "model": body["model"]}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return JSONResponse({**whole, "object": "chat.completion", "choices": [choice], "usage": usage})
    for index, call in enumerate(message.get("tool_calls", [])):
        call["index"] = index

    async def events() -> AsyncIterator[str]:
        for delta, end in ((message, None), ({}, reason)):
            choice = {"index": 0, "delta": delta, "finish_reason": end}
            chunk = {**whole, "object": "chat.completion.chunk", "choices": [choice]}
            yield f"data: {json.dumps(chunk)}\n\n"
        last = {**whole, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        yield f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def reply(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The model's next message: the next call of the script, or its answer."""
    asked = [number for number, message in enumerate(messages) if message["role"] == "user"]
    steps = steps_of(text_of(messages[asked[-1]]))
    results, calls = {}, []
    for message in messages[asked[-1] :]:
        calls += message.get("tool_calls") or []
        if message["role"] == "tool":
            results[message["tool_call_id"]] = text_of(message)
    done = [
        (call["function"]["name"], call["function"]["arguments"]) for call in calls if call["id"] in results
    ]
    if step := next_step(steps, done):
        function = {"name": step.tool, "arguments": step.arguments}
        call = {"id": f"call_{uuid.uuid4().hex[:12]}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    pass_gates(steps, folder)
    return {"role": "assistant", "content": answer(steps, len(asked), list(results.values()))}


if __name__ == "__main__":
    routes = [Route("/v1/models", models), Route("/v1/chat/completions", complete, methods=["POST"])]
    serve(Starlette(routes=routes), Path(sys.argv[2]))
