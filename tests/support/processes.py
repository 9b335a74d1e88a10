"""`ask` as its user runs it: a process of its own, over pipes or at a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
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

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90.0
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")


def environment(host: str | None = None, **more: str) -> dict[str, str]:
    """An environment without any workspace but this one, and without settings of the developer's."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("DATABRICKS_", "SUPERVISOR_")) and key not in ("FORCE_COLOR", "NO_COLOR")
    }
    kept |= {"DATABRICKS_CONFIG_FILE": "/nonexistent", "TERM": "xterm-256color"}
    kept |= {"NO_PROXY": "127.0.0.1", "SUPERVISOR_POLL_INTERVAL": "0.1"}
    if host is not None:
        kept |= {"DATABRICKS_HOST": host, "DATABRICKS_TOKEN": "test", "SUPERVISOR_TOOLS": "demonstration"}
    return kept | more


def events(text: str) -> list[dict[str, Any]]:
    """The JSON lines of a text."""
    return [json.loads(line) for line in text.splitlines()]


class Warm:
    """Starts `ask` in children of a process that has imported everything already."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_ask"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._numbers = itertools.count()
        assert self._read() == {"ready": True}

    def ask(self, directory: Path, *arguments: str, env: Mapping[str, str]) -> Run:
        """Start a run whose output goes to files."""
        base = directory / f"output-{next(self._numbers)}"
        spec = {"stdout": f"{base}.out", "stderr": f"{base}.err"}
        return Run(self, self._start(directory, arguments, env, spec), base)

    def terminal(self, directory: Path, *arguments: str, env: Mapping[str, str]) -> Terminal:
        """Start a run at a pseudo-terminal."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        pid = self._start(directory, arguments, env, {"tty": os.ttyname(slave)})
        return Terminal(self, pid, master, slave)

    def wait(self, pid: int) -> int:
        """Wait for a run, and take its exit code."""
        self._write({"wait": pid})
        return int(self._read()["exit"])

    def close(self) -> None:
        """End it, and what still runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _start(
        self, directory: Path, arguments: tuple[str, ...], env: Mapping[str, str], spec: dict[str, str]
    ) -> int:
        self._write({"arguments": arguments, "cwd": str(directory), "env": dict(env), **spec})
        return int(self._read()["pid"])

    def _write(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


class Run:
    """A run of `ask` that is not at a terminal."""

    def __init__(self, warm: Warm, pid: int, base: Path) -> None:
        self._warm = warm
        self.pid = pid
        self._out, self._err = base.with_name(f"{base.name}.out"), base.with_name(f"{base.name}.err")

    def until(self, wanted: str) -> str:
        """Wait until a text was printed."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            text = self._out.read_text() if self._out.exists() else ""
            if wanted in text:
                return text
            assert time.monotonic() < deadline, f"{wanted!r} did not come: {text}"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def finish(self) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        code = self._warm.wait(self.pid)
        return code, self._out.read_text(), self._err.read_text()

    def events(self) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and JSON lines of a run that is to print nothing else."""
        code, out, err = self.finish()
        assert err == "", err
        return code, events(out)


class Terminal:
    """A run of `ask` at a pseudo-terminal, 100 columns wide."""

    def __init__(self, warm: Warm, pid: int, master: int, slave: int) -> None:
        self._warm, self._master, self._slave = warm, master, slave
        self.pid = pid
        self.raw = ""
        self._read_to = 0

    @property
    def text(self) -> str:
        """Everything that was printed, without control codes."""
        return _CONTROL.sub("", self.raw)

    def until(self, wanted: str) -> None:
        """Wait for a text after what was waited for before."""
        while (found := self.text.find(wanted, self._read_to)) < 0:
            assert self._more(PATIENCE_S), f"{wanted!r} did not come: {self.text}"
        self._read_to = found + len(wanted)

    def type(self, keys: str) -> None:
        r"""Type something; "\x03" is Ctrl-C."""
        os.write(self._master, keys.encode())

    def finish(self) -> tuple[int, str]:
        """Exit code, and everything that was printed."""
        reader_of = self._drain_until_ended()
        os.close(self._slave)
        os.close(self._master)
        return reader_of, self.text

    def _drain_until_ended(self) -> int:
        # It could not end while nobody reads what it prints.
        while _alive(self.pid):
            self._more(0.05)
        code = self._warm.wait(self.pid)
        while self._more(0.05):
            pass
        return code

    def _more(self, patience_s: float) -> bool:
        if not select.select([self._master], [], [], patience_s)[0]:
            return False
        self.raw += os.read(self._master, 65536).decode(errors="replace")
        return True


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def whole_process(directory: Path, *arguments: str, env: Mapping[str, str]) -> subprocess.Popen[str]:
    """`ask` in a process that has imported nothing yet."""
    return subprocess.Popen(
        [sys.executable, "-m", "agent_server.cli.ask", *arguments],
        cwd=directory,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def local_supervisors(directory: Path) -> list[int]:
    """Process ids of the local supervisors that keep their jobs under a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _alive(int(entry.name)):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "local_supervisor" in command and any(str(directory) in part for part in command):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def no_local_supervisor_left(directory: Path) -> Iterator[Path]:
    """End the local supervisors that were started under a directory."""
    try:
        yield directory
    finally:
        deadline = time.monotonic() + 10
        while pids := local_supervisors(directory):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline
            time.sleep(0.05)
