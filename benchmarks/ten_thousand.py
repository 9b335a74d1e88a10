"""Ten thousand running jobs in one process, each polled every ten seconds, with the compiled graph."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from databricks_supervisor.polling import PollMoment

from .graphs import asking
from .jobs import freeze, in_flight
from .measure import Row, Usage, finish, in_fresh_process
from .service import Service, serving

JOBS = 10_000
CADENCE_S = 10.0
SETTLE_S = 5.0
WINDOW_S = 15.0
FREEZE_EACH = 1000
"""Number of submitted jobs after which all objects are excluded from garbage collections (README)."""
AT_ONCE = 64
"""Concurrent submissions: more would only wait for the database."""


def rows() -> list[Row]:
    """Whether all jobs are polled on time, and the cost."""
    with serving() as service, tempfile.TemporaryDirectory() as folder:
        found = in_fresh_process(__name__, port=service.port, folder=folder, jobs=JOBS)
    name = f"{JOBS:,} jobs, every 10 s"
    return [
        Row.below("ten_thousand", f"{name}: late by, p95", "s", found["late_p95_s"], 1.0),
        Row.below("ten_thousand", f"{name}: jobs not polled in time at all", "jobs", found["unpolled"], 0),
        Row.below("ten_thousand", f"{name}: CPU", "core", found["cores"], 1.0),
        Row.below("ten_thousand", f"{name}: memory", "MB", found["memory_mb"], 1000),
        Row("ten_thousand", f"{name}: CPU to submit one", "ms", found["submit_ms"], "none", passed=True),
    ]


def measure(port: int, folder: str, jobs: int) -> dict[str, float]:
    """In a fresh process: lateness, CPU and memory while all jobs are running."""
    return asyncio.run(_measure(Service(port), Path(folder), jobs))


class _Cadence:
    """Polls every ten seconds, once all jobs are submitted: earlier polls would slow down the submissions."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._began = time.monotonic()
        self.submitted = 0

    def __call__(self, moment: PollMoment) -> float:
        if moment.polls:
            return CADENCE_S
        taken_s = time.monotonic() - self._began
        each_s = taken_s / self.submitted if self.submitted >= FREEZE_EACH else 0.01
        return (self._jobs - self.submitted) * each_s + random.uniform(0.0, CADENCE_S)


async def _measure(service: Service, folder: Path, jobs: int) -> dict[str, float]:
    cadence = _Cadence(jobs)
    async with asking(service, folder, polling=cadence) as ask:
        submitting = Usage()
        running: list[asyncio.Task[Any]] = []
        frozen = 0
        while cadence.submitted < jobs:
            await asyncio.sleep(0.1)
            cadence.submitted = (await asyncio.to_thread(service.stats))["created"]
            if cadence.submitted >= frozen + FREEZE_EACH:
                frozen = cadence.submitted
                freeze()
            more = min(cadence.submitted + AT_ONCE, jobs)
            running += [asyncio.create_task(ask(number)) for number in range(len(running), more)]
        submit_s = submitting.cpu_s
        await in_flight(service, jobs, settle_s=SETTLE_S)
        usage = Usage()
        await asyncio.sleep(WINDOW_S)
        cores, memory_mb = usage.cores, usage.memory_mb()
        stats = await asyncio.to_thread(service.stats)
        late = sorted(interval - CADENCE_S for interval in stats["intervals"])
        finish(
            {
                "late_p95_s": late[int(0.95 * len(late))],
                "late_max_s": late[-1],
                "unpolled": max(0, jobs - stats["seen"]),
                "cores": cores,
                "memory_mb": memory_mb,
                "submit_ms": submit_s / jobs * 1000,
                "service": stats["cpu"],
            }
        )
