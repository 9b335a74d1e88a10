"""What the nodes of one run share: built when the run is prepared, passed on in its config, never stored."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from langchain_core.runnables import RunnableConfig

from .client.pool import ClientPool
from .client.responses import SupervisorClient
from .errors import ConfigurationError
from .ledger import Ledger
from .polling import coalesced
from .settings import Settings

# LangGraph copies configurable values into checkpoint metadata unless their key starts with "__".
RUN_KEY = "__databricks_supervisor_run"


class _Waits(threading.local):
    """How many coroutines sleep now, in the event loop of a thread."""

    number = 0


_waits = _Waits()


async def _sleep(seconds: float) -> None:
    """Sleep; where many coroutines sleep, they wake up in batches."""
    _waits.number += 1
    try:
        await asyncio.sleep(coalesced(seconds, time.monotonic(), _waits.number))
    finally:
        _waits.number -= 1


@dataclass(frozen=True, slots=True)
class Time:
    """Clock, sleep and randomness; tests give their own.

    Attributes:
        now: Seconds since the epoch.
        sleep: Waits for seconds.
        random: A number in [0, 1).
    """

    now: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = _sleep
    random: Callable[[], float] = field(default=random.random)


Headers = Callable[[], Mapping[str, str]]
"""Returns extra headers for a submission, such as the trace context. Never a credential."""


def no_headers() -> Mapping[str, str]:
    """No extra headers."""
    return {}


async def _no_wait() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one supervisor.

    Attributes:
        settings: The graph's settings, with the run's context applied.
        ledger: Where this run's side effects are claimed.
        thread: LangGraph's ``thread_id``.
        clients: Clients of the service, by identity.
        time: Clock, sleep and randomness.
        resumable: Whether there is a checkpointer, so that an interrupt can be answered.
        headers: More headers of a submission.
        stored: Waits until the question is in a checkpoint, if the graph is compiled to store it first.
    """

    settings: Settings
    ledger: Ledger
    thread: str
    clients: ClientPool
    time: Time
    resumable: bool
    headers: Headers = no_headers
    stored: Callable[[], Awaitable[None]] = _no_wait

    async def client(self) -> SupervisorClient:
        """The client of the run's identity."""
        return await self.clients.get(self.settings.identity)


def run_of(config: RunnableConfig) -> Run:
    """The run that a node is part of."""
    run = config.get("configurable", {}).get(RUN_KEY)
    if run is None:
        raise ConfigurationError(
            "A supervisor's node ran outside of its compiled graph. Compile the graph that "
            "create_supervisor_graph returned, and call or embed that."
        )
    return cast(Run, run)
