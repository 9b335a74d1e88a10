"""`ask` as its user runs it: a process of its own, over pipes or at a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PATIENCE_S = 90.0
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")


def environment(host: str | None = None, **more: str) -> dict[str, str]:
    """An environment without any workspace but this one, and without settings of the developer's."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("DATABRICKS_", "SUPERVISOR_")) and key not in ("FORCE_COLOR", "NO_COLOR")
    }
    kept |= {"DATABRICKS_CONFIG_FILE": "/nonexistent", "PYTHONUNBUFFERED": "1"}
    if host is not None:
        kept |= {"DATABRICKS_HOST": host, "DATABRICKS_TOKEN": "test", "SUPERVISOR_TOOLS": "demonstration"}
    return kept | more


class Ask:
    """A run of `ask` over pipes.

    Args:
        directory: Its working directory.
        arguments: Of the command line.
        env: Its environment.
    """

    def __init__(self, directory: Path, *arguments: str, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent_server.ask", *arguments],
            cwd=directory,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def until(self, wanted: str) -> list[str]:
        """Read lines up to the first one that contains a text."""
        lines = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.append(line)
            if wanted in line:
                return lines
        raise AssertionError(f"{wanted!r} did not come: {lines} {self.process.communicate()}")

    def finish(self) -> tuple[int, str, str]:
        """Exit code, and what is left of standard output and standard error."""
        try:
            out, err = self.process.communicate(timeout=PATIENCE_S)
        finally:
            self.kill()
        return self.process.returncode, out, err

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


def events(text: str) -> list[dict[str, Any]]:
    """The JSON lines of a text."""
    return [json.loads(line) for line in text.splitlines()]


class Terminal:
    """A run of `ask` at a pseudo-terminal, 100 columns wide."""

    def __init__(self, directory: Path, *arguments: str, env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.raw = ""
        self._read_to = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent_server.ask", *arguments],
            cwd=directory,
            env={**env, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    @property
    def text(self) -> str:
        """Everything that was printed, without control codes."""
        return _CONTROL.sub("", self.raw)

    def until(self, wanted: str) -> str:
        """Wait for a text after what was waited for before."""
        while (found := self.text.find(wanted, self._read_to)) < 0:
            if not self._more():
                raise AssertionError(f"{wanted!r} did not come: {self.text}")
        self._read_to = found + len(wanted)
        return self.text

    def type(self, keys: str) -> None:
        """Type something; "\\x03" is Ctrl-C."""
        os.write(self._master, keys.encode())

    def finish(self) -> tuple[int, str]:
        """Exit code, and everything that was printed."""
        try:
            while self._more():
                pass
            self.process.wait(timeout=PATIENCE_S)
        finally:
            self.close()
        return self.process.returncode, self.text

    def close(self) -> None:
        """kill -9, if it still runs."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._master)

    def _more(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], PATIENCE_S)
        if not ready:
            raise AssertionError(f"nothing came any more: {self.text}")
        try:
            chunk = os.read(self._master, 65536)
        except OSError:
            return False
        self.raw += chunk.decode(errors="replace")
        return bool(chunk)


def local_supervisors(directory: Path) -> list[int]:
    """Process ids of the local supervisors that keep their jobs under a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "local_supervisor" in command and any(str(directory) in part for part in command):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def no_process_left(directory: Path) -> Iterator[None]:
    """End the local supervisors that were started under a directory."""
    try:
        yield
    finally:
        deadline = time.monotonic() + 10
        while pids := local_supervisors(directory):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline
            time.sleep(0.05)
