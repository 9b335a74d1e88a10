"""The cost of one poll: sequential polls of a job that does not change."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from .graphs import our_client
from .measure import Row, Usage, in_fresh_process
from .service import serving

POLLS = {"ours": 4000, "published": 1000}
WARM_UP = 200


def rows() -> list[Row]:
    """CPU of a poll of a small body and of a large one."""
    found = []
    for what, items, most in (("0.6 KB", 0, 1 / 4), ("50 KB, 50 items", 50, 1 / 10)):
        ours, published = (cost_ms(side, items) for side in ("ours", "published"))
        found.append(Row.against("polls", f"CPU of a poll, {what}", "ms", ours, published, most))
    return found


@functools.cache
def cost_ms(side: str, items: int) -> float:
    """CPU time of a poll in milliseconds, by the number of items in the body; measured once per run."""
    with serving(items=items) as service:
        cost: float = in_fresh_process(__name__, side=side, url=service.url)["ms"]
    return cost


def measure(side: str, url: str) -> dict[str, float]:
    """In a fresh process: CPU time of one poll, in milliseconds."""
    polls = POLLS[side]

    async def run() -> float:
        poll = {"ours": _ours, "published": _published}[side](url)
        for _ in range(WARM_UP):
            await poll()
        usage = Usage()
        for _ in range(polls):
            await poll()
        return usage.cpu_s / polls * 1000

    return {"ms": asyncio.run(run())}


def _ours(url: str) -> Callable[[], Awaitable[None]]:
    from databricks_supervisor.client.responses import ServiceResponse, SupervisorClient

    ours = SupervisorClient(our_client(url))
    last: ServiceResponse | None = None

    async def poll() -> None:
        nonlocal last
        last = await ours.retrieve("resp_0000001_000000000000", timeout_s=30, last=last)

    return poll


def _published(url: str) -> Callable[[], Awaitable[None]]:
    from .published import client_of

    client = client_of(url)

    async def poll() -> None:
        response = await client.responses.retrieve("resp_0000001_000000000000")
        assert response.status == "in_progress"

    return poll
