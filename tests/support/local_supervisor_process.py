"""The stand-in service as a process that a test owns."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
RESPONSES = "/ai-gateway/mlflow/v1/responses"


class LocalSupervisor:
    """`python -m local_supervisor` on a free port, which outlives `kill()` and never the test.

    Args:
        directory: Where the service keeps its jobs.
        behaviour: Its default behaviour.
        token: The bearer token that it asks for; None accepts any.

    Example:
        with LocalSupervisor(tmp_path, {"duration_s": 0.2}) as service:
            ...  # talk to service.url
            service.kill()
            service.restart()  # the same port, the same jobs
            assert service.submissions()["count"] == 1
    """

    def __init__(
        self, directory: Path, behaviour: dict[str, Any] | None = None, token: str | None = None
    ) -> None:
        self.directory = directory
        self.port = 0
        self._behaviour = behaviour or {}
        self._token = token
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens; holds over restarts."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> LocalSupervisor:
        """Start the process and wait until it listens.

        Raises:
            RuntimeError: It ended, or did not become ready in 20 seconds.
        """
        assert self._process is None, "already started"
        self.directory.mkdir(parents=True, exist_ok=True)
        port_file = self.directory / "port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "local_supervisor", "--port", str(self.port)]
        command += ["--data", str(self.directory), "--port-file", str(port_file)]
        command += ["--behaviour", json.dumps(self._behaviour), "--parent", str(os.getpid())]
        if self._token is not None:
            command += ["--token", self._token]
        log = self.directory / "log.txt"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        atexit.register(self.kill)
        deadline = time.monotonic() + 20
        while not port_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the local supervisor did not start:\n{log.read_text()}")
            time.sleep(0.01)
        self.port = int(port_file.read_text().split()[0])
        return self

    def kill(self) -> None:
        """kill -9, with everything that it started."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and kill -9 should that not do."""
        self._end(signal.SIGTERM)

    def restart(self) -> LocalSupervisor:
        """Start again on the same port, with the same jobs."""
        self.kill()
        return self.start()

    def submissions(self, question: str | None = None) -> dict[str, Any]:
        """What was submitted: count, posts, jobs."""
        params = {} if question is None else {"question": question}
        return self._control("GET", "/_local/submissions", params=params)

    def job(self, response_id: str) -> dict[str, Any]:
        """One job, with the request that created it."""
        return self._control("GET", f"/_local/jobs/{response_id}")

    def set_behaviour(self, **fields: Any) -> dict[str, Any]:
        """Merge fields into the default behaviour; None takes a field back."""
        return self._control("PUT", "/_local/behaviour", json=fields)

    def clear_behaviour(self) -> None:
        """Go back to the behaviour that it was started with."""
        self._control("DELETE", "/_local/behaviour")

    def reset(self) -> None:
        """Forget jobs and counters."""
        self._control("POST", "/_local/reset")

    def _control(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        answer = httpx.request(method, self.url + path, timeout=10, trust_env=False, **kwargs)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        atexit.unregister(self.kill)
        if process is None:
            return
        try:
            if how is signal.SIGTERM:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
        finally:
            # it leads a session of its own, so that a tool which it started goes with it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)

    def __enter__(self) -> LocalSupervisor:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
