"""What the OpenAPI page says about the routes, whose bodies FastAPI does not read."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

_TEXT = {"type": "string"}
_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {
            "description": "The question: a text, or items (messages, function_call_output, "
            "mcp_approval_response). What is new, or the whole conversation.",
            "anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": {"type": "object"}}],
        },
        "stream": {"type": "boolean", "default": False, "description": "Answer with events."},
        "background": {"type": "boolean", "default": False, "description": "Answer at once, with an id."},
        "previous_response_id": {**_TEXT, "description": "Goes on with the thread of that response."},
        "tools": {
            "type": "array",
            "items": {"type": "object"},
            "description": "Functions that the client runs itself.",
        },
        "custom_inputs": {
            "type": "object",
            "properties": {"thread_id": _TEXT, "session_id": _TEXT},
            "description": "Names the thread.",
        },
        "context": {
            "type": "object",
            "properties": {"conversation_id": _TEXT, "user_id": _TEXT},
            "description": "Names the thread, as chat surfaces do.",
        },
    },
}
_RESPONSE: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "status", "output"],
    "properties": {
        "id": {**_TEXT, "description": "To ask for it again, on any replica."},
        "object": {"const": "response"},
        "created_at": {"type": "integer", "description": "Seconds since the epoch."},
        "status": {"enum": ["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]},
        "output": {"type": "array", "items": {"type": "object"}},
        "error": {"type": ["object", "null"]},
        "custom_outputs": {
            "type": "object",
            "properties": {
                "thread_id": _TEXT,
                "response_id": {"type": ["string", "null"], "description": "Id of the job at the service."},
                "pending": {"type": "array", "description": "What waits for a person."},
            },
        },
    },
}
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "code": _TEXT,
                "param": {"type": ["string", "null"]},
            },
        }
    },
}
_SUMMARIES = {
    "/invocations": "Ask the agent",
    "/responses": "Ask the agent, as OpenAI's clients do",
    "/responses/{response_id}": "A response as it is now, or its events",
    "/responses/{response_id}/cancel": "Cancel the job of a response",
}
_REFUSALS = {
    400: "The request is wrong, or the service refused it",
    401: "No valid credentials",
    403: "Access is refused",
    404: "No such response or thread",
    409: "The thread is busy with another question",
    422: "The Idempotency-Key was used for another request",
    424: "The job failed before it said anything, for a client that named a conversation",
    429: "The service is overloaded",
    502: "The service failed",
    503: "The service or the state cannot be reached",
    504: "The job did not end in time",
}


def describe(app: FastAPI) -> None:
    """Describe the routes of an app: summaries, bodies and answers."""
    for route in app.routes:
        if not isinstance(route, APIRoute) or route.path not in _SUMMARIES:
            continue
        route.summary = _SUMMARIES[route.path]
        route.responses = _responses()
        if route.path in ("/invocations", "/responses"):
            key = {"name": "Idempotency-Key", "in": "header", "schema": _TEXT}
            route.openapi_extra = {
                "requestBody": {"required": True, "content": {"application/json": {"schema": _REQUEST}}},
                "parameters": [{**key, "description": "Two requests with one key are one turn."}],
            }


def _responses() -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": _RESPONSE}, "text/event-stream": {"schema": _TEXT}}
    answered = "The response; with stream, server-sent events that end with [DONE]"
    refused: dict[int | str, dict[str, Any]] = {
        str(status): {"description": text, "content": {"application/json": {"schema": _ERROR}}}
        for status, text in _REFUSALS.items()
    }
    return {"200": {"description": answered, "content": content}, **refused}
