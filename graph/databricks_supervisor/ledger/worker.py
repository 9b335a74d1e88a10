"""Names of processes, and whether the process with a name has ended."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

import psutil  # type: ignore[import-untyped]


def this_worker() -> str:
    """The name of this process: ``host/pid/start``.

    The host includes the boot id and the pid namespace (a container) where the system has them; the start time
    distinguishes two processes with the same pid.

    Example:
        >>> from databricks_supervisor.ledger.worker import is_dead, this_worker
        >>> is_dead(this_worker())
        False
    """
    return _worker_name(os.getpid())


def is_dead(worker: str) -> bool:
    """Whether that process is known to have ended.

    Reads ``/proc`` where it exists, so it may block: in a coroutine, use ``asyncio.to_thread``.

    Args:
        worker: The process's :func:`this_worker`.

    Returns:
        True only for a process of this host that has ended. False if it runs, is on another host, or is unknown.
    """
    host, _, rest = worker.partition("/")
    number, _, start = rest.partition("/")
    if host != _HOST or not start or not (number.isascii() and number.isdigit()):
        return False
    pid = int(number)
    try:
        if not _exists(pid):
            return True
    except OverflowError:
        return False
    return _start_time(pid) not in ("", start)


@functools.cache
def _worker_name(pid: int) -> str:
    return f"{_HOST}/{pid}/{_start_time(pid)}"


def _host() -> str:
    parts = [socket.gethostname().replace("/", "_")]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    except OSError:
        pass
    return ":".join(parts)


def _exists(pid: int) -> bool:
    if os.name != "posix":
        return bool(psutil.pid_exists(pid))
    # Not psutil: it reports a process that it may not inspect (hidepid) as ended.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _start_time(pid: int) -> str:
    """When a process started, in a form that never changes; ``"ended"`` for a zombie, ``""`` if hidden."""
    try:
        # Not psutil's create_time: on Linux it changes with every correction of the system's clock, so a
        # running process would look like another one.
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
        return "ended" if state in "ZX" else fields[18]
    except (OSError, IndexError, ValueError):
        pass
    try:
        process = psutil.Process(pid)
        return "ended" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.3f}"
    except (psutil.Error, OSError):
        return ""


_HOST = _host()
this_worker()  # cached at import, so that no event loop waits for the disk
