"""Background Responses that report the run of an approved call in one of four ways.

``python approved_runs.py FOLDER PORT_FILE`` serves each at ``/WAY/v1/responses``; a way is a name of :data:`WAYS`.
Tools run in here: each effect is a line of ``FOLDER/REFERENCE.effects``, each job one of ``FOLDER/REFERENCE.jobs``.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

from rules import Act, Conversation, advance, note, pass_gates, play, reference_of, steps_of
from serve import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

Item = dict[str, Any]

WAYS = ("joined", "unjoined", "function", "echo")
"""An ``mcp_call`` with the approval's id; one with null; a function call and its output under the approval's id; and
that after the whole history of the input.
"""

folder = Path(sys.argv[1])
responses: dict[str, Item] = {}
running: dict[str, asyncio.Task[None]] = {}


async def create(request: Request) -> JSONResponse:
    """``POST /responses``."""
    way, body = request.path_params["way"], await request.json()
    response = {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": 0,
        "model": body["model"],
    }
    response |= {
        "status": "queued",
        "output": [],
        "error": None,
        "background": True,
        "tools": body.get("tools", []),
    }
    responses[response["id"]] = response
    note(folder / f"{reference_of(Conversation.read(body['input']).question)}.jobs", response["id"])
    running[response["id"]] = asyncio.create_task(work(way, body, response))
    return JSONResponse(response)


async def retrieve(request: Request) -> JSONResponse:
    """``GET /responses/ID``."""
    response = responses.get(request.path_params["id"])
    if response is None:
        return JSONResponse({"error": {"message": "no such response", "code": "not_found"}}, 404)
    return JSONResponse(response)


async def cancel(request: Request) -> JSONResponse:
    """``POST /responses/ID/cancel``."""
    response = responses[request.path_params["id"]]
    if response["status"] in ("queued", "in_progress"):
        running[response["id"]].cancel()
        response["status"] = "cancelled"
    return JSONResponse(response)


async def work(way: str, body: Item, response: Item) -> None:
    """Do a job."""
    response["status"] = "in_progress"
    try:
        output: list[Item] = []
        if way == "echo":
            output += [item for item in body["input"] if item.get("role") != "user"]
        output += await asyncio.to_thread(new_items, way, body)
        response |= {"status": "completed", "output": output}
    except Exception as error:
        response |= {"status": "failed", "error": {"code": "server_error", "message": repr(error)}}


def new_items(way: str, body: Item) -> list[Item]:
    """What a job puts out."""
    conversation = Conversation.read(body["input"])
    effects = folder / f"{reference_of(conversation.question)}.effects"
    pass_gates(steps_of(conversation.question), folder)
    label = next((tool["server_label"] for tool in body.get("tools", []) if tool["type"] == "mcp"), "")
    acts, result = play(conversation, needs_approval=True), None
    items: list[Item] = []
    while act := advance(acts, result):
        result = None
        if act.kind == "run":
            note(effects, f"{act.step.tool} {act.step.value}")
            result = f"did {act.step.tool} {act.step.value}"
            items += reported(way, act, result, label)
        else:
            items.append(item_of(act, label))
    return items


def reported(way: str, act: Act, result: str, label: str) -> list[Item]:
    """A run of an approved call."""
    call = {"name": act.step.tool, "arguments": act.step.arguments}
    if way in ("joined", "unjoined"):
        joined = act.approval if way == "joined" else None
        item = {"type": "mcp_call", "id": new_id("mcp"), "server_label": label, **call, "error": None}
        return [{**item, "output": result, "status": "completed", "approval_request_id": joined}]
    return [
        {"type": "function_call", "id": new_id("fc"), "call_id": act.approval, **call, "status": "completed"},
        {"type": "function_call_output", "id": new_id("fco"), "call_id": act.approval, "output": result},
    ]


def item_of(act: Act, label: str) -> Item:
    """An item for anything else."""
    if act.kind == "say":
        text = {"type": "output_text", "text": act.text, "annotations": []}
        message = {"type": "message", "id": new_id("msg"), "role": "assistant", "status": "completed"}
        return {**message, "content": [text]}
    call = {"name": act.step.tool, "arguments": act.step.arguments}
    if act.kind == "ask":
        return {"type": "mcp_approval_request", "id": new_id("mcpr"), "server_label": label, **call}
    return {
        "type": "function_call",
        "id": new_id("fc"),
        "call_id": new_id("call"),
        **call,
        "status": "completed",
    }


def new_id(prefix: str) -> str:
    """A new id."""
    return f"{prefix}_{uuid.uuid4().hex}"


if __name__ == "__main__":
    at = "/{way}/v1/responses"
    routes = [
        Route(at, create, methods=["POST"]),
        Route(at + "/{id}", retrieve),
        Route(at + "/{id}/cancel", cancel, methods=["POST"]),
    ]
    serve(Starlette(routes=routes), Path(sys.argv[2]))
