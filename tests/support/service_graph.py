"""What a run does: the graph as an application builds it, with what the library publishes and nothing else."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpcore2
import openai
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

# The ledger's class and httpcore are imported on first use: here, a forked process finds them imported.
from databricks_supervisor import SqlLedger, SupervisorError, create_supervisor_graph
from tests.support.service_runner import PATIENCE_S, End, Spec

__all__ = ["SqlLedger", "drive", "httpcore2"]


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
        client_factory=lambda _: openai.AsyncOpenAI(base_url=spec.base_url, api_key="none"),
        **{"model": "up/rules", "polling": 0.1, "deadline_s": PATIENCE_S, **spec.options},
    )


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
