"""What a child of the fork server does when a person or a client-side function is part of the run.

``python -m tests.e2e.approvals_runner FD`` is the fork server with these functions. Runs are those of
:mod:`.runner`, with tools that leave a trace on the disk, and with more moments at which a process can die.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool

from databricks_supervisor.ledger.sql import SqlLedger
from databricks_supervisor.run import Time
from tests.e2e import fork_server, runner

CONNECTION = {"type": "uc_connection", "uc_connection": {"name": "mail"}}


def run_graph(spec: runner.Spec) -> None:
    """As :func:`.runner.run_graph`.

    Args:
        spec: As there, and optionally ``file`` (functions append a line to it), ``tool_s`` (how long they take
            before and after that), ``later_s`` (how far ahead all clocks are), ``linger_s`` (how long the
            process lives on after its last word).
    """
    options = dict(spec.get("options", {}))
    options["tools"] = [CONNECTION]
    if "file" in spec:
        options["tools"] += tools_that_write(spec["file"], spec.get("tool_s", 0.0))
    if "later_s" in spec:
        options["time"] = Time(now=lambda: time.time() + spec["later_s"])
        kind, address = spec["store"]
        assert kind == "postgres"
        options["ledger"] = SqlLedger(address, clock=options["time"].now)
    _more_moments(spec)
    runner.run_graph({**spec, "options": options})


def tools_that_write(file: str, seconds: float) -> list[BaseTool]:
    """``note``, ``note_async``, ``note_failing``, and ``note_again``, which is safe to repeat.

    Each appends the text that it is given to the file and sees it on the disk. They name the moments before,
    in the middle and at the end.
    """

    def note(text: str) -> str:
        """Write a line."""
        runner._moment("function begins")
        time.sleep(seconds)
        _append(file, text)
        runner._moment("function wrote")
        time.sleep(seconds)
        runner._moment("function ends")
        return f"wrote {text}"

    async def note_async(text: str) -> str:
        """Write a line."""
        runner._moment("function begins")
        await asyncio.sleep(seconds)
        _append(file, text)
        runner._moment("function wrote")
        await asyncio.sleep(seconds)
        runner._moment("function ends")
        return f"wrote {text}"

    def note_failing(text: str) -> str:
        """Write a line, and fail."""
        raise ValueError(f"not good: {note(text)}")

    return [
        StructuredTool.from_function(note),
        StructuredTool.from_function(coroutine=note_async, name="note_async"),
        StructuredTool.from_function(note_failing, name="note_failing"),
        StructuredTool.from_function(note, name="note_again", metadata={"safe_to_repeat": True}),
    ]


def _append(file: str, text: str) -> None:
    handle = os.open(file, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(handle, f"{text}\n".encode())
    os.fsync(handle)
    os.close(handle)


def _more_moments(spec: runner.Spec) -> None:
    def claimed(_: Any, args: Any) -> str | None:
        return None if args[1].kind == "submit" else f"{args[1].kind} claimed"

    def recorded(_: Any, args: Any) -> str | None:
        return None if args[1].kind == "submit" else f"{args[1].kind} recorded"

    runner._around(SqlLedger, "claim", after=claimed)
    runner._around(SqlLedger, "record", after=recorded)
    for node in ("approve", "call_tools"):
        _around_node(node)
    tell_end = runner._tell_end

    def tell(state: Any) -> None:
        if state is not None:
            runner._say("decided", by=_deciders(state.values.get("messages", [])))
        tell_end(state)
        runner._moment("waits")
        time.sleep(spec.get("linger_s", 0.0))

    runner._tell_end = tell


def _around_node(name: str) -> None:
    runner._around(runner.picture, name, before=lambda: f"{name} begins", after=lambda *_: f"{name} returns")


def _deciders(messages: list[Any]) -> dict[str, str]:
    return {
        message.id.rpartition(":")[2]: message.additional_kwargs["decided_by"]
        for message in messages
        if "decided_by" in message.additional_kwargs
    }


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert threading.active_count() == 1, threading.enumerate()
    fork_server.runner = sys.modules[__name__]
    gc.collect()
    gc.freeze()
    fork_server.serve(socket.socket(fileno=int(sys.argv[1])))
