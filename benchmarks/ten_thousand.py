"""Ten thousand jobs in flight in one process, each polled every ten seconds, through the compiled graph."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from .graphs import asking
from .jobs import in_flight
from .measure import Row, Usage, finish, in_fresh_process
from .service import Service, serving

__all__ = ["measure", "rows"]

JOBS = 10_000
CADENCE_S = 10.0
WINDOW_S = 20.0
AT_ONCE = 64
"""Questions that are being submitted at any time: a storm of them would only wait for the database."""


def rows() -> list[Row]:
    """Whether all are polled on time, and what that takes."""
    with serving() as service, tempfile.TemporaryDirectory() as folder:
        found = in_fresh_process(__name__, port=service.port, folder=folder, jobs=JOBS)
    name = f"{JOBS:,} jobs, every 10 s"
    return [
        Row.below("ten_thousand", f"{name}: late by, p95", "s", found["late_p95_s"], 1.0),
        Row.below("ten_thousand", f"{name}: jobs not polled in time at all", "jobs", found["unpolled"], 0),
        Row.below("ten_thousand", f"{name}: CPU", "core", found["cores"], 1.0),
        Row.below("ten_thousand", f"{name}: memory", "MB", found["memory_mb"], 1000),
        Row.below("ten_thousand", f"{name}: CPU to submit one", "ms", found["submit_ms"], 20),
    ]


def measure(port: int, folder: str, jobs: int) -> dict[str, float]:
    """In a process of its own: lateness, CPU and memory while all are in flight."""
    return asyncio.run(_measure(Service(port), Path(folder), jobs))


async def _measure(service: Service, folder: Path, jobs: int) -> dict[str, float]:
    async with asking(service, folder, polling=CADENCE_S) as ask:
        submitting = Usage()
        running: list[asyncio.Task[Any]] = []
        while True:
            submitted = (await asyncio.to_thread(service.stats))["created"]
            more = min(submitted + AT_ONCE, jobs)
            running += [asyncio.create_task(ask(number)) for number in range(len(running), more)]
            if submitted == jobs:
                break
            await asyncio.sleep(0.1)
        submit_s = submitting.cpu_s
        await in_flight(service, jobs, settle_s=2 * CADENCE_S)
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
