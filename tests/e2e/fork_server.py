"""The helper process behind :class:`.forked_processes.ForkServer`: ``python -m tests.e2e.fork_server FD``.

It starts no thread and no event loop of its own: what a fork would not copy must not exist.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
import traceback

from tests.e2e import runner


def serve(control: socket.socket) -> None:
    """Answer requests until the other end is closed."""
    while True:
        line, handles = b"", []
        while not line.endswith(b"\n"):
            chunk, more, _, _ = socket.recv_fds(control, 1 << 16, 8)
            if not chunk:
                return
            line, handles = line + chunk, handles + list(more)
        request = json.loads(line)
        answer = {}
        if request["do"] == "fork":
            answer["pid"] = _fork(control, request, handles)
            for handle in handles:
                os.close(handle)
        elif request["do"] == "reap":
            answer["code"] = os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])
        control.sendall(json.dumps(answer).encode() + b"\n")


def _fork(control: socket.socket, request: dict[str, object], handles: list[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        control.close()
        events, gate, errors = handles
        os.dup2(events, 1)
        os.dup2(errors, 2)
        for handle in (events, errors):
            os.close(handle)
        os.read(gate, 1)  # the end of the file, once the gate is open
        os.close(gate)
        getattr(runner, str(request["function"]))(request["spec"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
