"""The agent server as a process that a test owns."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import httpx

from tests.support.processes import environment

START_WITHIN_S = 90.0
# Below the ports that outgoing connections take, so that a port stays free while its server is down.
_PORTS = range(18_000, 32_000)
# Whatever ends the test process closes the pipe, and that ends the server with everything that it started.
_GUARDED = 'exec 3<&0 </dev/null; (read -r _ <&3; kill -9 0) & exec 3<&-; exec "$@"'


class ServerProcess:
    """`start-server` in a directory of its own: it keeps its port over restarts, and never outlives the test.

    Args:
        directory: Where it runs, and keeps its state and its log.
        service: URL of the service that it asks; without it, what ``env`` says.
        state_url: ``SUPERVISOR_STATE_URL``; by default a file in ``directory``.
        env: More environment variables. Nothing that is set for the developer's own workspace reaches it.
        workers: Processes that serve.

    Example:
        with LocalSupervisor(tmp_path / "service") as service:
            with ServerProcess(tmp_path / "server", service=service.url) as server:
                httpx.post(server.url + "/responses", json={"input": "How are sales?"})
                server.kill()
                server.start()  # the same port, the same state
    """

    def __init__(
        self,
        directory: Path,
        *,
        service: str | None = None,
        state_url: str | None = None,
        env: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> None:
        self.directory = directory
        self.port = _free_port()
        self._env = environment(service) | dict(env or {})
        if state_url is not None:
            self._env["SUPERVISOR_STATE_URL"] = state_url
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end; holds over restarts."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Id of the process that was started, which with several workers is not the one that serves."""
        assert self._process is not None, "not running"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has printed, over all of its starts."""
        with contextlib.suppress(FileNotFoundError):
            return self._log_file.read_text(errors="replace")
        return ""

    def start(self) -> ServerProcess:
        """Start it, and wait until it is healthy.

        Raises:
            RuntimeError: It ended, or was not healthy in 90 seconds.
        """
        self.launch()
        self.wait_healthy()
        return self

    def launch(self) -> None:
        """Start it without waiting."""
        assert self._process is None, "already started"
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "agent_server.cli.serve", "--port", str(self.port)]
        command += ["--workers", str(self._workers)]
        with self._log_file.open("ab") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARDED, "sh", *command],
                cwd=self.directory,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_healthy(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: It ended, or was not healthy in 90 seconds.
        """
        deadline = time.monotonic() + START_WITHIN_S
        with httpx.Client(timeout=5, trust_env=False) as client:
            while True:
                assert self._process is not None, "not started"
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"the server did not start:\n{self.log}")
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(f"{self.url}/health").status_code == 200:
                        return
                time.sleep(0.02)

    def kill(self) -> None:
        """kill -9, with its workers and everything else that it started. Nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        _kill_group(process)

    def terminate(self, within_s: float = 15.0) -> int | None:
        """SIGTERM, as a platform sends it, and kill -9 should that not do.

        Args:
            within_s: Seconds that it gets.

        Returns:
            Its exit code; None if it had to be killed.
        """
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(within_s)
            return None
        finally:
            _kill_group(process)

    @property
    def _log_file(self) -> Path:
        return self.directory / "server.log"

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    assert process.stdin is not None
    process.stdin.close()


def _free_port() -> int:
    for port in _candidates():
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def _candidates() -> Iterator[int]:
    yield from random.SystemRandom().sample(_PORTS, 100)
