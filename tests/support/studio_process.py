"""`langgraph dev` as a process that a test owns, with the project's own configuration."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

ROOT = Path(__file__).resolve().parents[2]
GRAPH = "supervisor"
PATIENCE_S = 60.0
"""How long a test waits for what must come. Never a measure of speed."""

Values = dict[str, Any]


class Studio:
    """The development server in a working copy of its own.

    Args:
        directory: Gets `langgraph.json`, and everything that the server writes.
        env: The whole environment, see :func:`environment`.
        options: More command line options.
    """

    def __init__(self, directory: Path, env: Mapping[str, str], *options: str) -> None:
        self.directory = directory
        self.log = directory / "log.txt"
        self._env = dict(env)
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> SyncLangGraphClient:
        """Start it and wait until it serves; gives a client.

        Raises:
            RuntimeError: It ended, or did not come up.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "langgraph.json", self.directory)
        port = _free_port()
        command = [str(Path(sys.executable).with_name("langgraph")), "dev", "--no-browser", "--no-reload"]
        command += ["--host", "127.0.0.1", "--port", str(port), *self._options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + PATIENCE_S
        while not _serves(url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.end(signal.SIGKILL)
                raise RuntimeError(f"langgraph dev did not start:\n{self.log.read_text()[-5000:]}")
            time.sleep(0.05)
        return get_sync_client(url=url)

    def end(self, how: signal.Signals) -> None:
        """Send a signal, and see the process gone."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)


def environment(host: str | None, **more: str) -> dict[str, str]:
    """An environment with this workspace, or none, and without settings of the developer's."""
    dropped = ("DATABRICKS_", "SUPERVISOR_", "LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    kept |= {"DATABRICKS_CONFIG_FILE": os.devnull, "LANGGRAPH_CLI_NO_ANALYTICS": "1", "NO_PROXY": "127.0.0.1"}
    kept |= {"SUPERVISOR_POLL_INTERVAL": "0.1"}
    if host is not None:
        kept |= {"DATABRICKS_HOST": host, "SUPERVISOR_TOOLS": "demonstration"}
    return kept | more


def wait_for(look: Callable[[], Values | None], what: str) -> Values:
    """Look until there is something."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.05)
    return found


def _serves(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ok", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
