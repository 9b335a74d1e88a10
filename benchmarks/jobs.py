"""A thousand running jobs, each polled every two seconds; ours with the compiled graph, on SQLite."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from .graphs import asking
from .measure import FreshProcess, Row, Usage, finish, ready
from .service import Service, serving

JOBS = 1000
WINDOW_S = 10.0


def rows() -> list[Row]:
    """CPU and memory of a thousand jobs."""
    with ExitStack() as stack:
        sides = []
        for side in ("ours", "published"):
            service = stack.enter_context(serving())
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            sides.append(FreshProcess(__name__, side=side, port=service.port, folder=folder, jobs=JOBS))
        for process in sides:
            process.wait_ready()
        ours, published = (process.result() for process in sides)
    return [
        Row.against(
            "jobs", f"CPU of {JOBS:,} jobs, every 2 s", "core", ours["cores"], published["cores"], 1 / 4
        ),
        Row.against(
            "jobs", f"Memory of {JOBS:,} jobs", "MB", ours["memory_mb"], published["memory_mb"], 1 / 4
        ),
        Row.below("jobs", "Service meanwhile (not to be what is measured)", "core", ours["service"], 0.5),
    ]


def measure(side: str, port: int, folder: str, jobs: int) -> dict[str, float]:
    """In a fresh process: share of a core, memory and descriptors while all jobs are running."""
    return asyncio.run({"ours": _ours, "published": _published}[side](Service(port), Path(folder), jobs))


async def _ours(service: Service, folder: Path, jobs: int) -> dict[str, float]:
    async with asking(service, folder, polling=2.0) as ask:
        running = [asyncio.create_task(ask(number)) for number in range(jobs)]
        await in_flight(service, jobs, settle_s=0.0)
        await ready()
        return await _watched(service, running)


async def _published(service: Service, folder: Path, jobs: int) -> dict[str, float]:
    from .published import client_of, run_job

    clients = [await asyncio.to_thread(client_of, service.url) for _ in range(jobs)]
    await ready()
    running = [asyncio.create_task(run_job(client, "How much?")) for client in clients]
    return await _watched(service, running)


async def in_flight(service: Service, jobs: int, *, settle_s: float = 3.0) -> None:
    """Wait until every job has been polled and their start-up work is done; then start a new window.

    Freezes all objects, on both sides: a full garbage collection visits every object of every job, which took a
    quarter of the CPU of 1,000 jobs, and 5 s each time with 10,000 (README).
    """
    while (await asyncio.to_thread(service.stats))["jobs"] < jobs:  # noqa: ASYNC110 - another process
        await asyncio.sleep(1.0)
    freeze()
    await asyncio.sleep(settle_s)
    await asyncio.to_thread(service.stats)


def freeze() -> None:
    """Exclude all current objects from future garbage collections."""
    gc.collect()
    gc.freeze()


async def _watched(service: Service, running: list[asyncio.Task[Any]]) -> NoReturn:
    jobs = len(running)
    await in_flight(service, jobs)
    usage = Usage()
    await asyncio.sleep(WINDOW_S)
    cores = usage.cores
    stats = await asyncio.to_thread(service.stats)
    assert stats["polls"] > 0.4 * jobs * WINDOW_S / 2, f"only {stats['polls']} polls"
    finish(
        {
            "cores": cores,
            "memory_mb": usage.memory_mb(),
            "descriptors": usage.descriptors(),
            "polls_s": stats["polls"] / stats["seconds"],
            "service": stats["cpu"],
        }
    )
