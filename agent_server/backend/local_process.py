"""The local supervisor as a detached process: started once for a directory, found again, kept alive.

The starter takes a file lock and passes it on to the process, which holds it until it ends. So there are never two
on the same data, whichever process is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ..errors import NotReachableError

DIRECTORY = Path(".supervisor/local")
IDLE_EXIT_S = 600
PATIENCE_S = 20.0
KEEP_EVERY_S = 60.0
_kept: set[Path] = set()


def ensure_local(directory: Path = DIRECTORY) -> int:
    """The port of the local supervisor of a directory; starts it if it does not run. Blocks.

    Raises:
        NotReachableError: It does not come up.
    """
    directory = directory.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return _ensure(directory)
    except OSError as error:
        raise NotReachableError(
            f"The local supervisor cannot use {directory}: {error.strerror or error}. "
            "Run this where you may write files."
        ) from None


def keep_local(directory: Path = DIRECTORY) -> None:
    """Keep it alive for as long as this process lives: without requests it ends by itself."""
    directory = directory.absolute()
    if directory in _kept:
        return
    _kept.add(directory)

    def keep() -> None:
        while True:
            time.sleep(KEEP_EVERY_S)
            with contextlib.suppress(NotReachableError):
                ensure_local(directory)

    threading.Thread(target=keep, name="local-supervisor-keeper", daemon=True).start()


def _ensure(directory: Path) -> int:
    deadline = time.monotonic() + PATIENCE_S
    started: subprocess.Popen[bytes] | None = None
    starts = 0
    while True:
        port, pid = _address(directory)
        if port and _healthy(port):
            if _holds(directory):
                return port
        elif starts < 3 and (process := _start(directory, port if starts == 0 else 0)) is not None:
            started, starts = process, starts + 1
        gave_up = starts == 3 and started is not None and started.poll() is not None
        if gave_up or time.monotonic() > deadline:
            if started is None and pid:
                # The lock is held, so this is the process that the file names, and it hangs.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                deadline, pid = time.monotonic() + PATIENCE_S, 0
                (directory / "port").unlink(missing_ok=True)
                continue
            raise NotReachableError(
                f"The local supervisor did not start. What it said is in {directory / 'log.txt'}."
            )
        time.sleep(0.03)


def _start(directory: Path, port: int) -> subprocess.Popen[bytes] | None:
    """Start the process, unless there is one."""
    if (lock := _lock(directory)) is None:
        return None
    try:
        (directory / "port").unlink(missing_ok=True)
        command = [sys.executable, "-P", "-m", "local_supervisor", "--data", str(directory)]
        command += ["--port", str(port), "--port-file", str(directory / "port")]
        command += ["--idle-exit", str(IDLE_EXIT_S)]
        with (directory / "log.txt").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock],
                cwd=directory,
            )
    finally:
        os.close(lock)


def _holds(directory: Path) -> bool:
    """Whether the directory's process lives: after its end another program may have taken its port."""
    if (lock := _lock(directory)) is None:
        return True
    (directory / "port").unlink(missing_ok=True)
    os.close(lock)
    return False


def _lock(directory: Path) -> int | None:
    """The file lock of the directory, to be closed again; ``None`` if a process has it."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _address(directory: Path) -> tuple[int, int]:
    """Port and process id, as it wrote them; zeros if it has not."""
    try:
        port, pid = (directory / "port").read_text().split()
        return int(port), int(pid)
    except (OSError, ValueError):
        return 0, 0


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/_local/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
