"""A thousand jobs in flight, each polled every two seconds: ours through the compiled graph, on SQLite."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from .graphs import asking, stopped
from .measure import Row, Usage, in_fresh_process
from .service import Service, serving

__all__ = ["JOBS", "WINDOW_S", "measure", "rows"]

JOBS = 1000
WINDOW_S = 20.0


def rows() -> list[Row]:
    """CPU and memory of a thousand jobs."""
    sides = {}
    for side in ("ours", "published"):
        with serving() as service:
            sides[side] = in_fresh_process(__name__, side=side, port=service.port, jobs=JOBS)
    ours, published = sides["ours"], sides["published"]
    return [
        Row.against(
            "jobs", f"CPU of {JOBS:,} jobs, every 2 s", "core", ours["cores"], published["cores"], 1 / 4
        ),
        Row.against(
            "jobs", f"Memory of {JOBS:,} jobs", "MB", ours["memory_mb"], published["memory_mb"], 1 / 4
        ),
        Row.below("jobs", "Service meanwhile (not to be what is measured)", "core", ours["service"], 0.5),
    ]


def measure(side: str, port: int, jobs: int) -> dict[str, float]:
    """In a process of its own: share of a core, memory and descriptors while all jobs are in flight."""
    return asyncio.run({"ours": _ours, "published": _published}[side](Service(port), jobs))


async def _ours(service: Service, jobs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        async with asking(service, Path(folder), polling=2.0) as ask:
            running = [asyncio.create_task(ask(number)) for number in range(jobs)]
            result = await _watched(service, jobs)
            await stopped(running)
    return result


async def _published(service: Service, jobs: int) -> dict[str, float]:
    from .published import client_of, run_job

    clients = [await asyncio.to_thread(client_of, service.url) for _ in range(jobs)]
    running = [asyncio.create_task(run_job(client, "How much?")) for client in clients]
    result = await _watched(service, jobs)
    await stopped(running)
    return result


async def _watched(service: Service, jobs: int) -> dict[str, float]:
    while (await asyncio.to_thread(service.stats))["jobs"] < jobs:  # noqa: ASYNC110 - another process
        await asyncio.sleep(1.0)
    await asyncio.sleep(3.0)
    await asyncio.to_thread(service.stats)
    usage = Usage()
    await asyncio.sleep(WINDOW_S)
    cores = usage.cores
    stats = await asyncio.to_thread(service.stats)
    assert stats["polls"] > 0.4 * jobs * WINDOW_S / 2, f"only {stats['polls']} polls"
    return {
        "cores": cores,
        "memory_mb": usage.memory_mb(),
        "descriptors": usage.descriptors(),
        "polls_s": stats["polls"] / stats["seconds"],
        "service": stats["cpu"],
    }
