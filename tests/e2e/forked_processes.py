"""Processes that start in milliseconds: a helper imports everything once and forks one child a run.

A cold start of the SDKs costs seconds of CPU; a fork of a process that has them costs none. Every child is a
process of its own, with its own event loop, connections and threads, and can be killed like any other.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
"""How long a test waits for what must come. Never a measure of speed."""

Event = dict[str, Any]


class Process:
    """One child: its events (JSON lines on its stdout) and its end."""

    def __init__(self, pid: int, events: int, gate: int, reap: Callable[[int], int], log: Path) -> None:
        self.pid = pid
        self.log = log
        self.events: list[Event] = []
        self._events = events
        self._gate = gate
        self._reap = reap
        self._rest = b""
        self._code: int | None = None

    def go(self) -> None:
        """Open the gate of a child that was started with ``held=True``."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1

    def wait_for(self, name: str, nth: int = 1) -> Event | None:
        """The nth event, or moment passed, of this name; ``None`` if the child ended without it."""
        while True:
            found = [event for event in self.events if name in (event["event"], event.get("name"))]
            if len(found) >= nth:
                return found[nth - 1]
            if not self._read():
                return None

    def wait(self) -> int:
        """Wait for its end; gives its exit code (negative: the signal)."""
        self.go()
        while self._read():
            pass
        return self._ended()

    def end(self) -> Event:
        """Wait for its end; gives its last word."""
        code = self.wait()
        end = self.wait_for("end")
        assert end is not None, (
            f"the run ended without a word (exit code {code}): {self.events[-3:]}\n{self.log.read_text()[-3000:]}"
        )
        return end

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self._code is None:
            os.kill(self.pid, number)  # not reaped yet, so its pid is still its own

    def kill(self) -> None:
        """kill -9, and see it gone. What it said until then is in ``events``."""
        self.signal(signal.SIGKILL)
        self.wait()

    def kill_after(self, seconds: float) -> None:
        """Let it run for so long after its start, then kill it."""
        self.wait_for("started")
        time.sleep(seconds)
        self.kill()

    def running(self) -> bool:
        """Whether it runs still, as far as its output tells."""
        ready, _, _ = select.select([self._events], [], [], 0) if self._code is None else ([], [], [])
        return bool(self._code is None and (not ready or self._read()))

    @property
    def alive(self) -> bool:
        """Whether it has not been seen to end."""
        return self._code is None

    def _ended(self) -> int:
        if self._code is None:
            self._code = self._reap(self.pid)
            os.close(self._events)
        return self._code

    def _read(self) -> bool:
        """Read what comes next; False at the end."""
        if self._code is not None:
            return False
        ready, _, _ = select.select([self._events], [], [], PATIENCE_S)
        if not ready:
            self.signal(signal.SIGKILL)
            raise TimeoutError(f"process {self.pid} says nothing: {self.events[-3:]}")
        chunk = os.read(self._events, 1 << 16)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self.events += [json.loads(line) for line in lines]
        return bool(chunk)


class ForkServer:
    """The helper process, as the tests see it.

    Args:
        log: Gets the stderr of every child.
        module: What the helper runs; its children run a function of it.
    """

    def __init__(self, log: Path, module: str = "tests.e2e.fork_server") -> None:
        self.log = log
        self._module = module
        self._lock = threading.Lock()
        self._children: list[Process] = []

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        self._socket = ours
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        theirs.close()
        self._ask({"do": "hello"})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def pid(self) -> int:
        """Process id of the helper."""
        return self._process.pid

    def start(
        self, function: str, spec: dict[str, Any], *, held: bool = False, log: Path | None = None
    ) -> Process:
        """Run ``function(spec)`` of :mod:`.runner` in a new child.

        Args:
            function: Its name.
            spec: Its argument, as JSON.
            held: Whether the child waits at its gate before it begins (:meth:`Process.go`).
            log: Gets its stderr, in place of the common log.
        """
        events, events_in = os.pipe()
        gate_out, gate = os.pipe()
        with (log or self.log).open("ab") as errors:
            handles = [events_in, gate_out, errors.fileno()]
            answer = self._ask({"do": "fork", "function": function, "spec": spec}, handles)
        os.close(events_in)
        os.close(gate_out)
        child = Process(answer["pid"], events, gate, self._reap, log or self.log)
        if not held:
            child.go()
        self._children.append(child)
        return child

    def leftovers(self) -> list[int]:
        """Kill what still runs; gives the pids."""
        left = [child for child in self._children if child.alive]
        for child in left:
            child.kill()
        self._children.clear()
        return [child.pid for child in left]

    def _reap(self, pid: int) -> int:
        return int(self._ask({"do": "reap", "pid": pid})["code"])

    def _ask(self, request: dict[str, Any], handles: list[int] | None = None) -> dict[str, Any]:
        answer = b""
        with self._lock, contextlib.suppress(ConnectionError):
            socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], handles or [])
            while not answer.endswith(b"\n") and (chunk := self._socket.recv(1 << 16)):
                answer += chunk
        assert answer.endswith(b"\n"), f"the fork server is gone:\n{self.log.read_text()[-3000:]}"
        read: dict[str, Any] = json.loads(answer)
        return read


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something outside of a child's events."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.03)
