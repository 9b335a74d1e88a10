"""`python -m tests.support.warm_ask`: `ask` in children of a process that has imported everything already.

Reads one JSON object a line (arguments, cwd, env, and either tty or stdout and stderr), forks, and answers
with the child's process id, then with its exit code when it has ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

import databricks_openai  # noqa: F401
import langgraph.checkpoint.sqlite.aio

from agent_server import graph
from agent_server.cli import ask, loop, prompts, run, view_plain, view_terminal
from agent_server.storage import storage

__all__ = ["graph", "langgraph", "loop", "prompts", "run", "storage", "view_plain", "view_terminal"]


def main() -> None:
    """Serve until the input ends."""
    assert threading.active_count() == 1, "a fork would lose threads"
    running: set[int] = set()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _write({"ready": True})
    for line in sys.stdin:
        spec = json.loads(line)
        if "wait" in spec:
            _, status = os.waitpid(spec["wait"], 0)
            running.discard(spec["wait"])
            _write({"exit": os.waitstatus_to_exitcode(status)})
            continue
        pid = os.fork()
        if pid == 0:
            _child(spec)
        running.add(pid)
        _write({"pid": pid})
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _child(spec: dict[str, Any]) -> None:
    code = 99
    try:
        os.setsid()
        os.chdir(spec["cwd"])
        os.environ.clear()
        os.environ.update(spec["env"])
        if "tty" in spec:
            opened = [os.open(spec["tty"], os.O_RDWR)] * 3
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            opened = [os.open(os.devnull, os.O_RDONLY)]
            opened += [os.open(spec[name], flags, 0o644) for name in ("stdout", "stderr")]
        for number, descriptor in enumerate(opened):
            os.dup2(descriptor, number)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        ask.main(spec["arguments"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 98
    except BaseException as error:
        sys.stderr.write(f"not caught: {error!r}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _write(what: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(what) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
