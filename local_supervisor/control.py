"""The control plane under /_local: reads and changes the state of the local service."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .behaviour import parse
from .errors import ApiError, error_for
from .jobs import Job, JobStore, now

_SETTING = "behaviour"


class Control:
    """The routes of the control plane.

    Args:
        store: Jobs and counters.
        started_with: The behaviour's fields from the command line.
    """

    def __init__(self, store: JobStore, started_with: dict[str, Any]) -> None:
        parse(started_with)
        self._store = store
        self._started_with = started_with
        stored = store.setting(_SETTING)
        self._behaviour = started_with if stored is None else stored

    def behaviour(self) -> dict[str, Any]:
        """The fields of the default behaviour that are set."""
        return self._behaviour

    def routes(self) -> list[Route]:
        """All routes of the control plane."""
        return [
            Route("/_local/health", self._health, methods=["GET"]),
            Route("/_local/submissions", self._submissions, methods=["GET"]),
            Route("/_local/jobs/{response_id}", self._job, methods=["GET"]),
            Route("/_local/behaviour", self._get_behaviour, methods=["GET"]),
            Route("/_local/behaviour", self._put_behaviour, methods=["PUT"]),
            Route("/_local/behaviour", self._delete_behaviour, methods=["DELETE"]),
            Route("/_local/reset", self._reset, methods=["POST"]),
        ]

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _submissions(self, request: Request) -> Response:
        jobs = self._store.all(request.query_params.get("question"))
        return JSONResponse(
            {
                "count": len(jobs),
                "posts": self._store.count("posts", by=0),
                "jobs": [_summary(job) for job in jobs],
            }
        )

    async def _job(self, request: Request) -> Response:
        job = self._store.get(request.path_params["response_id"])
        if job is None:
            raise error_for(404)
        return JSONResponse({**_summary(job), "request": job.request})

    async def _get_behaviour(self, _: Request) -> Response:
        return JSONResponse(self._behaviour)

    async def _put_behaviour(self, request: Request) -> Response:
        try:
            given = json.loads(await request.body())
        except ValueError:
            raise ApiError(400, "The body is not JSON.") from None
        if not isinstance(given, dict):
            raise ApiError(400, "The body is not a JSON object.")
        merged = {**self._behaviour, **given}
        merged = {key: value for key, value in merged.items() if value is not None}
        parse(merged)
        self._behaviour = merged
        self._store.set_setting(_SETTING, merged)
        return JSONResponse(merged)

    async def _delete_behaviour(self, _: Request) -> Response:
        self._behaviour = self._started_with
        self._store.set_setting(_SETTING, None)
        return JSONResponse(self._behaviour)

    async def _reset(self, _: Request) -> Response:
        self._store.reset()
        return JSONResponse({"status": "ok"})


def _summary(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "created_at": job.created_at,
        "question": job.question,
        "input_digest": job.input_digest,
        "idempotency_key": job.idempotency_key,
        "round": job.round,
        "status": job.status(now()),
        "polls": job.polls,
        "connection": job.connection,
        "bearer": job.bearer,
        "traceparent": job.traceparent,
    }
