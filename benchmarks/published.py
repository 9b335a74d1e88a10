"""The published loop, the baseline of the benchmarks, rewritten from its description.

One client per job, one second, then ``responses.retrieve`` every two seconds until the job has ended.
"""

from __future__ import annotations

import asyncio
from typing import Any

from databricks_openai import AsyncDatabricksOpenAI

FIRST_S = 1.0
INTERVAL_S = 2.0


def client_of(url: str) -> AsyncDatabricksOpenAI:
    """A client as the published code makes one for each request."""
    from databricks.sdk import WorkspaceClient

    return AsyncDatabricksOpenAI(
        workspace_client=WorkspaceClient(host=url, token="benchmark"), use_ai_gateway=True
    )


async def run_job(client: AsyncDatabricksOpenAI, question: str) -> list[dict[str, Any]]:
    """Submit a question and poll its job until it ends; its output items."""
    response = await client.responses.create(
        model="databricks-claude-sonnet-4-5",
        input=[{"role": "user", "content": question}],
        background=True,
        stream=False,
    )
    found: list[dict[str, Any]] = []
    await asyncio.sleep(FIRST_S)
    while True:
        try:
            response = await client.responses.retrieve(response.id)
        except Exception:
            await asyncio.sleep(INTERVAL_S)
            continue
        for item in response.output[len(found) :]:
            plain = item.model_dump()
            if plain.get("status") in ("queued", "in_progress", "incomplete") or not plain.get("id"):
                break
            found.append(plain)
        if response.status in ("completed", "failed", "cancelled"):
            return found
        await asyncio.sleep(INTERVAL_S)
