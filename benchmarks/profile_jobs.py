"""Profile of a thousand jobs: ``python -m benchmarks.profile_jobs``.

Runs ``cProfile`` for ten seconds while all jobs are running, and sums up by layer, without waiting. The profiler
slows everything down: only the shares are meaningful.
"""

from __future__ import annotations

import asyncio
import cProfile
import os
import pstats
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .graphs import asking
from .jobs import JOBS, in_flight
from .service import serving

WINDOW_S = 10.0
LAYERS = (
    ("send and receive (kernel)", ("_socket.socket",)),
    ("HTTP client: aiohttp, yarl, multidict", ("aiohttp", "yarl", "multidict", "propcache")),
    (
        "event loop: timers, tasks, callbacks",
        ("asyncio", "selectors.py", "_heapq", "_contextvars", "_asyncio"),
    ),
    ("the poll node, client and cadence", ("databricks_supervisor",)),
    ("SDK: base URL and headers", ("openai", "httpx")),
    ("LangGraph and LangChain", ("langgraph", "langchain_core")),
)


async def main() -> None:
    """Profile, and print the layers and the functions with the largest shares."""
    profile = cProfile.Profile()
    with serving() as service, tempfile.TemporaryDirectory() as folder:
        async with asking(service, Path(folder), polling=2.0) as ask:
            running = [asyncio.create_task(ask(number)) for number in range(JOBS)]
            await in_flight(service, JOBS)
            profile.enable()
            await asyncio.sleep(WINDOW_S)
            profile.disable()
            _show(pstats.Stats(profile))
        del running
        os._exit(0)


def _show(stats: Any) -> None:
    layers: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for (file, _, name), (_, _, own_s, _, _) in stats.stats.items():
        if "poll' of 'select.epoll" in name:
            continue
        place = f"{file} {name}"
        layers[next((layer for layer, parts in LAYERS if any(p in place for p in parts)), "other")] += own_s
        functions[f"{'/'.join(Path(file).parts[-2:])} {name}"] += own_s
    total = sum(layers.values())
    table = Table("layer or function", "share")
    for name, own_s in [*layers.most_common(), *functions.most_common(15)]:
        table.add_row(name, f"{100 * own_s / total:.0f} %")
    Console(width=130).print(table)


if __name__ == "__main__":
    asyncio.run(main())
