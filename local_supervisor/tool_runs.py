"""Runs approved tools in separate processes, at most once each, and stores their results with the job."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from .jobs import JobStore
from .plan import ToolRun, result_marker
from .script import Step

_TIMEOUT_S = 30.0
_SOURCES = str(Path(__file__).resolve().parent.parent)


class ToolRunner:
    """Executes the tool runs in the store. Call `start()` inside the event loop.

    Args:
        store: Has the tool runs, and stores their results.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._directory = str(store.directory.resolve())
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Resume after a kill. A run that was started may have happened, so it is not repeated."""
        for job_id, run in self._store.tool_runs("running"):
            self._store_result(job_id, run, "Error: the service restarted during this call; it may have run.")
        self.wake()

    def wake(self) -> None:
        """Start every waiting run."""
        for job_id, run in self._store.tool_runs("waiting"):
            self._store.set_tool_run(job_id, run.call_id, "running")
            task = asyncio.get_running_loop().create_task(self._run(job_id, run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, job_id: str, run: ToolRun) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "local_supervisor.mcp_client", self._directory,
            run.name, run.arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": _SOURCES},
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
            result = output.decode() if process.returncode == 0 else "Error: the tool server failed."
        except TimeoutError:
            result = f"Error: the tool gave no answer within {_TIMEOUT_S:g} s."
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        self._store_result(job_id, run, result)

    def _store_result(self, job_id: str, run: ToolRun, result: str) -> None:
        self._store.set_tool_run(job_id, run.call_id, "done", result)
        job = self._store.get(job_id)
        if job is None:  # deleted by a reset meanwhile
            return
        quoted = json.dumps(result, ensure_ascii=False)[1:-1]
        steps = [json.dumps(asdict(step), ensure_ascii=False) for step in job.script.steps]
        steps = [step.replace(result_marker(run.call_id), quoted) for step in steps]
        open_runs = [other for owner, other in self._store.tool_runs("waiting", "running") if owner == job_id]
        waiting = [
            index
            for index, step in enumerate(steps)
            if any(result_marker(other.call_id) in step for other in open_runs)
        ]
        script = replace(
            job.script,
            steps=[Step(**json.loads(step)) for step in steps],
            waits_at=waiting[0] if waiting else None,
        )
        self._store.rewrite(job, script)
