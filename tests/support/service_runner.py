"""The graph's side of the tests with other services: a run of a thread, in a process that may be killed.

Uses what the library publishes and nothing else. :class:`Runs` keeps a helper that has imported everything and
forks one process a run (multiprocessing's fork server).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpcore2
import openai
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

# The ledger's class and httpcore are imported on first use: here, a forked process finds them imported.
from databricks_supervisor import SqlLedger, SupervisorError, create_supervisor_graph

__all__ = ["End", "Run", "Runs", "Spec", "SqlLedger", "httpcore2"]

PATIENCE_S = 120.0
"""How long a test waits for what must come. Never a measure of speed."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """A run.

    Attributes:
        base_url: Where the service is.
        store: SQLite file with checkpoints and ledger.
        thread: The thread's id.
        given: ``{"ask": TEXT}``, ``{"answer": VALUE}``, or None to go on.
        tools: Hosted tools.
        functions: File to which the client-side function ``look_up`` adds a line a run; None declares no function.
        client: Which client: ``openai``, or ``agentbricks`` for the wire of Agent Bricks.
        options: More settings of the graph.
    """

    base_url: str
    store: str
    thread: str
    given: Any
    tools: list[dict[str, Any]] = field(default_factory=list)
    functions: str | None = None
    client: str = "openai"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class End:
    """How a run ended.

    Attributes:
        status: ``answered``, ``waits`` for a person, ``unfinished``, or ``error``.
        asked: Values of the interrupts.
        texts: Texts of all messages of the thread, in order, without those that are empty.
        error: Class of the error.
        said: The error in words.
        job: The thread's job.
    """

    status: str
    asked: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    error: str | None = None
    said: str | None = None
    job: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The last thing that was said."""
        return self.texts[-1] if self.texts else ""


class Run:
    """A run in a process of its own."""

    def __init__(self, process: BaseProcess, events: Connection) -> None:
        self._process = process
        self._events = events

    def end(self) -> End:
        """Wait for its end.

        Raises:
            AssertionError: It ended without a word, or said nothing for too long.
        """
        try:
            assert self._events.poll(PATIENCE_S), "the run does not end"
            return End(**self._events.recv())
        except EOFError:
            raise AssertionError(f"the run ended without a word: {self._process.exitcode}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9, and see it gone."""
        self._process.kill()
        self._process.join(PATIENCE_S)
        assert self._process.exitcode is not None
        self._events.close()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.is_alive()


class Runs:
    """Starts runs."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.support.service_runner"])
        self._started: list[Run] = []

    def start(self, spec: Spec) -> Run:
        """Start one."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=drive, args=(asdict(spec), theirs), daemon=True)
        process.start()
        theirs.close()
        run = Run(process, ours)
        self._started.append(run)
        return run

    def kill_all(self) -> int:
        """Kill what still runs; gives how many."""
        left = [run for run in self._started if run.alive]
        self._started.clear()
        for run in left:
            run.kill()
        return len(left)


def drive(given: dict[str, Any], events: Connection) -> None:
    """What the process does."""
    end = asyncio.run(_drive(Spec(**given)))
    events.send(asdict(end))
    events.close()


async def _drive(spec: Spec) -> End:
    config = {"configurable": {"thread_id": spec.thread}}
    async with AsyncSqliteSaver.from_conn_string(spec.store) as saver:
        try:
            graph = build(spec).compile(checkpointer=saver, durability="sync")
            await graph.ainvoke(_input(spec.given), config)
        except SupervisorError as error:
            return End("error", error=type(error).__name__, said=str(error))
        state = await graph.aget_state(config)
    asked = [found.value for found in state.interrupts]
    job = dict(state.values.get("job") or {})
    status = "waits" if asked else "answered" if job.get("ended") and not state.next else "unfinished"
    texts = [message.text for message in state.values.get("messages", []) if message.text]
    return End(status, asked, texts, job=job)


def build(spec: Spec) -> Any:
    """The graph, as an application would make it."""
    tools: list[Any] = [*spec.tools]
    if spec.functions is not None:
        tools.append(look_up_in(Path(spec.functions)))
    return create_supervisor_graph(
        tools=tools,
        client_factory=client_factory_of(spec),
        **{"model": "up/rules", "polling": 0.1, "deadline_s": PATIENCE_S, **spec.options},
    )


def client_factory_of(spec: Spec) -> Callable[[str | None], Any]:
    """Builds the client of the service."""
    if spec.client == "agentbricks":
        from databricks_supervisor.agentbricks import agentbricks_client  # type: ignore[import-not-found]

        return lambda _: agentbricks_client(spec.base_url, api_key="none")
    return lambda _: openai.AsyncOpenAI(base_url=spec.base_url, api_key="none")


def look_up_in(file: Path) -> Any:
    """A client-side function that leaves a trace."""

    @tool
    def look_up(thing: str) -> str:
        """Look something up."""
        handle = os.open(file, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(handle, f"look up {thing}\n".encode())
        os.close(handle)
        return f"found {thing}"

    return look_up


def _input(given: Any) -> Any:
    match given:
        case {"ask": text}:
            return {"messages": [{"role": "user", "content": text}]}
        case {"answer": value}:
            return Command(resume=value)
    return None
