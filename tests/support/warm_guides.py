"""`python -m tests.support.warm_guides`: runs examples in children of a process that has imported the SDKs already.

Reads one JSON object a line (file, cwd, env, stdout, stderr), runs
the file as a script, and answers with its exit code.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import traceback

import databricks.sdk
import databricks_openai
import langchain.agents
import langgraph.checkpoint.postgres.aio
import langgraph.checkpoint.sqlite.aio
import langgraph.prebuilt

import databricks_supervisor.ledger.sql

__all__ = ["databricks", "databricks_openai", "databricks_supervisor", "langchain", "langgraph"]


def main() -> None:
    """Serve until the input ends."""
    assert threading.active_count() == 1, "a fork would lose threads"
    for line in sys.stdin:
        spec = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(spec)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


def _child(spec: dict[str, object]) -> None:
    code = 1
    try:
        os.chdir(str(spec["cwd"]))
        os.environ.clear()
        os.environ.update(spec["env"])  # type: ignore[call-overload]
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(str(spec[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        sys.argv = [str(spec["file"])]
        runpy.run_path(str(spec["file"]), run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
