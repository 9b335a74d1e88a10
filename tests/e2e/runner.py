"""What a child of the fork server does: build the graph as an application would, and run it.

It says what happens as JSON lines on its stdout. Where a spec names a moment to die at, the process kills
itself there with SIGKILL; the hooks are put around the library's own functions, which do not know of them.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks_openai import AsyncDatabricksOpenAI
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from databricks_supervisor import SupervisorError, create_supervisor_graph
from databricks_supervisor.client.responses import SupervisorClient
from databricks_supervisor.items import items_from_message
from databricks_supervisor.ledger.sql import SqlLedger

picture = importlib.import_module("databricks_supervisor.graph")

Spec = dict[str, Any]


def run_graph(spec: Spec) -> None:
    """Run the graph in an event loop.

    Args:
        spec: ``store`` (kind, address), ``durability``, ``host``, ``thread``, ``input`` (None, {"ask": TEXT} or
            {"answer": VALUE}; "look" runs nothing), and optionally ``token``, ``options`` (of the graph),
            ``login_s``, ``die_at`` [moment, nth], ``cancel_s`` (seconds after the POST began), ``debug``.
    """
    _prepare(spec)
    try:
        asyncio.run(_run(spec))
    except KeyboardInterrupt:
        _say("stopped", by="KeyboardInterrupt")


def run_graph_sync(spec: Spec) -> None:
    """The same for callers without an event loop; ``how`` is "invoke" or "stream"."""
    _prepare(spec)
    try:
        with _sync_saver(spec) as saver:
            graph = _build(spec).compile(checkpointer=saver, durability=spec["durability"])
            _say("started")
            if spec["how"] == "invoke":
                graph.invoke(_input(spec), _config(spec))
            else:
                for _ in graph.stream(_input(spec), _config(spec), stream_mode=["custom", "updates"]):
                    pass
            _tell_end(graph.get_state(_config(spec)))
    except KeyboardInterrupt:
        _say("stopped", by="KeyboardInterrupt")
    except SupervisorError as error:
        _say("end", status="error", error=type(error).__name__, text=str(error))


async def _run(spec: Spec) -> None:
    async with _saver(spec) as saver:
        graph = _build(spec).compile(checkpointer=saver, durability=spec["durability"])
        _say("started")
        work = asyncio.ensure_future(_stream(graph, spec))
        if "cancel_s" in spec:
            await _posting.wait()
            await asyncio.sleep(spec["cancel_s"])
            work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            if "cancel_s" not in spec:
                raise
            _say("stopped", by="cancel")
            return
        except SupervisorError as error:
            _say("end", status="error", error=type(error).__name__, text=str(error))
            return
        _moment("run ended")
        _tell_end(await graph.aget_state(_config(spec)) if saver is not None else None)


async def _stream(graph: Any, spec: Spec) -> None:
    _moment("run begins")
    if spec["input"] == "look":
        return
    modes = ["custom", "updates", "values"]
    async for mode, chunk in graph.astream(_input(spec), _config(spec), stream_mode=modes):
        if mode == "custom":
            _say("progress", **chunk)
            continue
        if mode == "values":
            _own[:] = chunk.get("messages", [])
            continue
        for node, update in chunk.items():
            for message in (update.get("messages") or []) if isinstance(update, dict) else []:
                _say("item", node=node, id=message.id)


def _tell_end(state: Any) -> None:
    if state is None:
        _say("end", status="answered")
        return
    asked = [{"id": found.id, "value": found.value} for found in state.interrupts]
    job = state.values.get("job") or {}
    _say(
        "end",
        status="waits" if asked else "answered" if job.get("ended") and not state.next else "unfinished",
        asked=asked,
        job=job,
        messages=_shown(state.values.get("messages", [])),
        own=_shown(_own),
    )


def _shown(messages: Iterable[Any]) -> list[Spec]:
    return [
        {"id": message.id, "type": message.type, "items": items_from_message(message)} for message in messages
    ]


def _build(spec: Spec) -> Any:
    def client(identity: str | None) -> AsyncDatabricksOpenAI:
        config = Config(
            host=spec["host"], token=spec.get("token", "x"), retry_timeout_seconds=2, http_timeout_seconds=5
        )
        made = AsyncDatabricksOpenAI(workspace_client=WorkspaceClient(config=config), use_ai_gateway=True)
        _moment("client built")
        time.sleep(spec.get("login_s", 0.0))
        return made

    return create_supervisor_graph(
        model="databricks-claude-sonnet-4-5",
        client_factory=client,
        **{"polling": 0.1, "deadline_s": 120.0, **spec.get("options", {})},
    )


def _input(spec: Spec) -> Any:
    match spec["input"]:
        case None:
            return None
        case {"ask": text}:
            return {"messages": [{"role": "user", "content": text}]}
        case {"answer": value}:
            return Command(resume=value)


def _config(spec: Spec) -> Any:
    return {"configurable": {"thread_id": spec["thread"]}}


@asynccontextmanager
async def _saver(spec: Spec) -> AsyncIterator[Any]:
    match spec["store"]:
        case ["sqlite", file]:
            async with AsyncSqliteSaver.from_conn_string(file) as sqlite:
                yield sqlite
        case ["postgres", url]:
            async with AsyncPostgresSaver.from_conn_string(url) as postgres:
                yield postgres
        case None:
            yield None


@contextmanager
def _sync_saver(spec: Spec) -> Iterator[Any]:
    match spec["store"]:
        case ["sqlite", file]:
            with SqliteSaver.from_conn_string(file) as sqlite:
                yield sqlite
        case ["postgres", url]:
            with PostgresSaver.from_conn_string(url) as postgres:
                yield postgres


_posting: asyncio.Event
_die_at = ("", 0)
_passed: dict[str, int] = {}
_own: list[Any] = []
"""What this run itself returned last; the thread's state may be another run's work."""


def _say(event: str, **more: Any) -> None:
    line = json.dumps({"event": event, **more}, default=str) + "\n"
    data = line.encode()
    while data:
        data = data[os.write(1, data) :]


def _moment(name: str) -> None:
    """Pass a named moment: say so, and die if this is the one."""
    _passed[name] = _passed.get(name, 0) + 1
    if (name, _passed[name]) == _die_at:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # a thread goes on for a moment after its process was told to die
    _say("moment", name=name)


def _prepare(spec: Spec) -> None:
    global _posting, _die_at
    _posting = asyncio.Event()
    _die_at = tuple(spec.get("die_at") or ("", 0))
    level = logging.DEBUG if spec.get("debug") else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, force=True)
    _around(SqlLedger, "open_turn", after=lambda *_: "turn opened")
    _around(SqlLedger, "claim", after=lambda _, args: "claimed" if args[1].kind == "submit" else None)
    _around(SqlLedger, "record", after=lambda _, args: "recorded" if args[1].kind == "submit" else None)
    _around(SqlLedger, "end_turn", after=lambda *_: "turn ended")
    _around(SupervisorClient, "create", before=lambda: "posting", after=lambda *_: "answered")
    _around(SupervisorClient, "retrieve", before=lambda: "polling", after=lambda *_: "polled")
    _around(picture, "submit", before=lambda: "submit begins", after=lambda *_: "submit returns")
    _around(picture, "poll", before=lambda: "poll begins", after=_poll_returns)


def _poll_returns(update: Any, _args: Any) -> str:
    return "last poll returns" if update["job"].get("ended") else "poll returns"


def _around(
    owner: Any,
    name: str,
    *,
    before: Callable[[], str] | None = None,
    after: Callable[[Any, Any], str | None],
) -> None:
    inner: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(inner)  # LangGraph looks at the signature
    async def outer(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            moment = before()
            if moment == "posting":
                _posting.set()
            _moment(moment)
        result = await inner(*args, **kwargs)
        if (passed := after(result, args)) is not None:
            _moment(passed)
        return result

    setattr(owner, name, outer)
