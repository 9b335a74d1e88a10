"""Servers as processes that the tests own."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

PROGRAMS = Path(__file__).resolve().parents[1] / "services" / "programs"
READY_WITHIN_S = 240.0


class ServerProcess:
    """A process that listens, which never outlives the test run.

    Args:
        command: What runs.
        log: Gets its output.
        environment: Variables of its own, beside those of the tests.
    """

    def __init__(
        self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                cwd=log.parent,
                env={**_environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        atexit.register(self.kill)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: It ended, or did not become ready; with what it printed.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self._process.args!r} did not start:\n{self.log.read_text()[-5000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, with everything that it started."""
        atexit.unregister(self.kill)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)


def start_program(name: str, folder: Path) -> tuple[ServerProcess, str]:
    """Start a program of ours, in the environment of the tests.

    Returns:
        The process, and its address.
    """
    port_file = folder / f"{name}.port"
    process = ServerProcess(
        [sys.executable, PROGRAMS / f"{name}.py", folder, port_file], folder / f"{name}.log"
    )
    process.wait_until(port_file.exists)
    return process, f"http://127.0.0.1:{port_file.read_text()}"


def free_port() -> int:
    """A port that nobody listens on, for servers that must be told one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a server answers at all."""
    try:
        httpx.get(url, timeout=5, trust_env=False)
    except httpx.HTTPError:
        return False
    return True


def _environment() -> dict[str, str]:
    """The environment of the tests, without what belongs to their own Python."""
    dropped = ("PYTHON", "VIRTUAL_ENV", "OTEL_", "OPENAI_", "DATABRICKS_", "SUPERVISOR_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {**kept, "NO_PROXY": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
