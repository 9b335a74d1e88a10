"""A stand-in that speaks the wire of Agent Bricks' durable agent server: ``python agent_bricks.py FOLDER PORT_FILE``.

A session is a conversation. An invocation is a question (``input`` is a text, ``{"messages": […]}`` or a list of
messages), or the answer to what the last one was interrupted with. Each accepted invocation is a line of
``FOLDER/REFERENCE.jobs``, each effect of a tool one of ``FOLDER/REFERENCE.effects``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rules import Act, Step, answer, next_step, note, pass_gates, reference_of, steps_of, text_of
from serve import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

folder = Path(sys.argv[1])
KEYS = {"id", "session_id", "input", "background", "stream"}


@dataclass
class Session:
    """A conversation, which runs one invocation at a time."""

    free: asyncio.Lock = field(default_factory=asyncio.Lock)
    question: str = ""
    turn: int = 0
    done: list[tuple[str, str]] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    asked: Step | None = None


@dataclass
class Invocation:
    """An invocation.

    Attributes:
        body: The request that created it.
        events: What can be streamed, oldest first; an event's id is its place, from 1 on.
    """

    body: dict[str, Any]
    status: str = "queued"
    output: Any = None
    events: list[dict[str, Any]] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    work: asyncio.Task[None] | None = None

    async def become(self, status: str, output: Any = None) -> None:
        """Change the status, and tell whoever listens."""
        async with self.news:
            self.status, self.output = status, output
            self.events.append({"type": f"invocation.{status}", "id": self.body["id"]})
            self.news.notify_all()


sessions: dict[str, Session] = {}
invocations: dict[str, Invocation] = {}


async def create(request: Request) -> Response:
    """``POST /api/invocations``: the id is an idempotency key."""
    body = await request.json()
    if extra := set(body) - KEYS:
        return JSONResponse({"detail": f"unknown fields: {sorted(extra)}"}, 422)
    try:
        id = str(uuid.UUID(body["id"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return JSONResponse({"detail": "id must be a UUID"}, 422)
    if "input" not in body:
        return JSONResponse({"detail": "input is missing"}, 422)
    known = invocations.get(id)
    if known is not None and known.body != body:
        return JSONResponse({"detail": "this id was used for another request"}, 409)
    if known is None:
        known = invocations[id] = Invocation(body)
        session = sessions.setdefault(body.get("session_id") or id, Session())
        known.work = asyncio.create_task(work(known, session))
    if body.get("stream"):
        return StreamingResponse(events_of(known, 0), media_type="text/event-stream")
    place = f"/api/invocations/{id}"
    return JSONResponse(
        {"id": id, "status": known.status, "status_url": place, "events_url": f"{place}/events"}, 202
    )


async def retrieve(request: Request) -> JSONResponse:
    """``GET /api/invocations/ID``."""
    found = invocations.get(request.path_params["id"])
    if found is None:
        return JSONResponse({"detail": "not found"}, 404)
    state: dict[str, Any] = {"id": found.body["id"], "status": found.status}
    if found.status == "completed":
        state["output"] = found.output
    if found.status == "failed":
        state["error"] = {"message": "The invocation failed."}
    return JSONResponse(state)


async def events(request: Request) -> Response:
    """``GET /api/invocations/ID/events?after=N``."""
    found = invocations.get(request.path_params["id"])
    if found is None:
        return JSONResponse({"detail": "not found"}, 404)
    after = int(request.query_params.get("after", 0))
    return StreamingResponse(events_of(found, after), media_type="text/event-stream")


async def events_of(invocation: Invocation, after: int) -> AsyncIterator[str]:
    """Events after a place, until the invocation is over."""
    while True:
        async with invocation.news:
            while len(invocation.events) <= after and invocation.status in ("queued", "active"):
                await invocation.news.wait()
            found = invocation.events[after:]
            over = invocation.status not in ("queued", "active")
        for event in found:
            after += 1
            yield f"id: {after}\ndata: {json.dumps(event)}\n\n"
        if over:
            return


async def work(invocation: Invocation, session: Session) -> None:
    """Run an invocation once its session is free."""
    async with session.free:
        await invocation.become("active")
        try:
            output = await asyncio.to_thread(invoke, invocation.body, session)
        except Exception as error:
            logging.error("event=invocation_failed id=%s error=%r", invocation.body["id"], error)
            await invocation.become("failed")
        else:
            await invocation.become("completed", output)


def invoke(body: dict[str, Any], session: Session) -> dict[str, Any]:
    """What an invocation puts out."""
    given = body["input"]
    decisions = given["resume"]["decisions"] if isinstance(given, dict) and "resume" in given else None
    if decisions is None:
        session.question, session.turn = question_of(given), session.turn + 1
        session.done, session.results, session.asked = [], [], None
    reference = reference_of(session.question)
    note(folder / f"{reference}.jobs", body["id"])
    steps = steps_of(session.question)
    pass_gates(steps, folder)
    if decisions is not None:
        step, session.asked = session.asked, None
        if step is None or len(decisions) != 1:
            raise ValueError("there is not exactly one decision to make")
        if decisions[0]["type"] != "approve":
            return said(Act("say", text=f"Not done. Turn {session.turn}."))
        note(folder / f"{reference}.effects", f"{step.tool} {step.value}")
        session.done.append((step.tool, step.arguments))
        session.results.append(f"did {step.tool} {step.value}")
    session.asked = next_step(steps, session.done)
    if session.asked is None:
        return said(Act("say", text=answer(steps, session.turn, session.results)))
    asked = session.asked
    action = {"name": asked.tool, "args": json.loads(asked.arguments), "description": f"Run {asked.tool}?"}
    review = {"action_name": asked.tool, "allowed_decisions": ["approve", "reject"]}
    interrupt = {"action_requests": [action], "review_configs": [review]}
    return {"status": "interrupted", "interrupt": interrupt}


def said(act: Act) -> dict[str, Any]:
    """The output of an invocation that has an answer."""
    return {"status": "completed", "messages": [{"role": "assistant", "content": act.text}]}


def question_of(given: Any) -> str:
    """The latest question of an input."""
    if isinstance(given, str):
        return given
    messages = given["messages"] if isinstance(given, dict) else given
    return [text_of(message) for message in messages if message.get("role") == "user"][-1]


if __name__ == "__main__":
    at = "/api/invocations"
    routes = [
        Route(at, create, methods=["POST"]),
        Route(at + "/{id}", retrieve),
        Route(at + "/{id}/events", events),
    ]
    serve(Starlette(routes=routes), Path(sys.argv[2]))
