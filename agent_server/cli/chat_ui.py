"""The chat UI of Databricks' templates, as a child process that ends with the server."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import UsageError

CHAT_PORT = "3000"
"""Where it listens unless CHAT_APP_PORT says otherwise; MLflow's agent server passes requests on to the same port."""

STOP_WITHIN_S = 0.5
# The second process waits for the end of its input. That comes when the server ends, however it ends; then it
# ends the others.
_COMMAND = f"""
exec 3<&0 </dev/null
(trap '' TERM; read -r _ <&3; kill 0; sleep {STOP_WITHIN_S}; kill -9 0) &
exec 3<&-
npm install && npm run build && exec npm run start
"""
_KEPT_BACK = ("SUPERVISOR_", "OPENAI_")


def check_chat_ui(folder: Path) -> None:
    """Check that it can be run.

    Raises:
        UsageError: Its folder is missing, or npm is.
    """
    if not (folder / "package.json").is_file():
        raise UsageError(
            f"The chat UI is not in {folder}. Copy the folder e2e-chatbot-app-next of "
            "https://github.com/databricks/app-templates there, name another one in SUPERVISOR_UI_DIR, or start "
            "without it: --no-ui."
        )
    if shutil.which("npm") is None:
        raise UsageError("The chat UI needs npm, which is not installed. Install Node.js, or use --no-ui.")


@contextlib.contextmanager
def run_chat_ui(folder: Path, server: str, say: Callable[[str], None]) -> Iterator[None]:
    """Build and run it, in the background, until the block ends.

    Args:
        folder: Where it is.
        server: URL of the agent server that it talks to.
        say: Called with a line if it ends by itself.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_KEPT_BACK)}
    environment |= {"API_PROXY": f"{server}/invocations"}
    environment.setdefault("CHAT_APP_PORT", CHAT_PORT)
    # In a session of its own, so that all of its processes can be ended together.
    process = subprocess.Popen(
        ["sh", "-c", _COMMAND], cwd=folder, env=environment, stdin=subprocess.PIPE, start_new_session=True
    )
    stopping = threading.Event()

    def watch() -> None:
        code = process.wait()
        if not stopping.is_set():
            say(f"The chat UI ended (exit code {code}). The server goes on without it.")

    threading.Thread(target=watch, name="chat-ui", daemon=True).start()
    try:
        yield
    finally:
        stopping.set()
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2 * STOP_WITHIN_S)
    with contextlib.suppress(ProcessLookupError):
        # Also the children that it left behind.
        os.killpg(process.pid, signal.SIGKILL)
