"""Measures each side in a fresh process, so that neither affects the other."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import psutil  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        benchmark: Name of the benchmark.
        what: What was measured.
        unit: Unit of both figures.
        ours: Our figure.
        target: The target, in words.
        passed: Whether the target was met.
        published: The published loop's figure, if there is one.
    """

    benchmark: str
    what: str
    unit: str
    ours: float
    target: str
    passed: bool
    published: float | None = None

    @property
    def ratio(self) -> float | None:
        """Our figure divided by the published loop's."""
        return self.ours / self.published if self.published else None

    @classmethod
    def against(cls, benchmark: str, what: str, unit: str, ours: float, published: float, most: float) -> Row:
        """A row whose target is a share of the published loop's figure."""
        target = f"≤ 1/{1 / most:g} of published" if (1 / most).is_integer() else f"≤ {most:g} × published"
        return cls(benchmark, what, unit, ours, target, ours <= most * published, published)

    @classmethod
    def below(cls, benchmark: str, what: str, unit: str, ours: float, most: float) -> Row:
        """A row whose target is a figure."""
        return cls(benchmark, what, unit, ours, f"≤ {most:g} {unit}", ours <= most)


class Usage:
    """CPU time and memory of this process, all threads, since this object was created."""

    def __init__(self) -> None:
        self._cpu, self._wall = _cpu_s(), time.monotonic()

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU."""
        return _cpu_s() - self._cpu

    @property
    def cores(self) -> float:
        """Share of one core."""
        return self.cpu_s / (time.monotonic() - self._wall)

    @staticmethod
    def memory_mb() -> float:
        """Resident memory of the whole process now, in MB."""
        return float(psutil.Process().memory_info().rss / 1e6)

    @staticmethod
    def descriptors() -> int:
        """Open files and sockets."""
        return int(psutil.Process().num_fds())


def in_fresh_process(module: str, **arguments: Any) -> dict[str, Any]:
    """Call ``measure(**arguments)`` of a module in a fresh process; its JSON result.

    Raises:
        subprocess.CalledProcessError: It failed; its traceback is on stderr.
    """
    return FreshProcess(module, **arguments).result()


class FreshProcess:
    """``measure(**arguments)`` of a module, running in a fresh process.

    Several can prepare concurrently and are measured one after the other: :func:`ready` blocks until
    :meth:`result` is called.
    """

    def __init__(self, module: str, **arguments: Any) -> None:
        command = [sys.executable, "-m", "benchmarks.measure", module, json.dumps(arguments)]
        environment = {**os.environ, "DATABRICKS_CONFIG_FILE": os.devnull, "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def wait_ready(self) -> None:
        """Wait until the process is ready, or has failed."""
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def result(self) -> dict[str, Any]:
        """Let the process continue, and wait for its result.

        Raises:
            subprocess.CalledProcessError: It failed; its traceback is on stderr.
        """
        output, _ = self._process.communicate("go on\n")
        if self._process.returncode:
            raise subprocess.CalledProcessError(self._process.returncode, self._process.args)
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        return result


async def ready() -> None:
    """Report that this process is ready, and wait until its result is requested."""
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.readline)


def finish(result: dict[str, Any]) -> NoReturn:
    """Print the result and exit at once, without waiting for running tasks or cancelling them."""
    print(json.dumps(result), flush=True)  # noqa: T201
    os._exit(0)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    _, name, given = sys.argv
    finish(importlib.import_module(name).measure(**json.loads(given)))
