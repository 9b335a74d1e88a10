"""Environments of servers that nobody here wrote: made once, kept outside the checkout.

An environment is named by what is in it, so a changed list of requirements makes a new one. No index is named:
where packages come from is uv's configuration, as for the project itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "services" / "requirements"
_MADE_WITHIN_S = 280


@dataclass(frozen=True)
class Server:
    """What has to be installed to run a server.

    Attributes:
        name: Its name; ``requirements/NAME.txt`` lists every package.
        oldest: The oldest Python that it runs on.
        newest: The newest that it is known to run on.
    """

    name: str
    oldest: tuple[int, int]
    newest: tuple[int, int] = (3, 13)


class NoPython(Exception):
    """This machine has no interpreter that the server runs on."""


def python_of(server: Server) -> Path:
    """The interpreter of the server's environment, which is made unless it is there.

    Raises:
        NoPython: No interpreter is new enough.
        RuntimeError: The packages could not be installed; with what uv said.
    """
    base = find_python(server.oldest, server.newest)
    requirements = REQUIREMENTS / f"{server.name}.txt"
    content = hashlib.sha256(requirements.read_bytes() + str(base).encode()).hexdigest()[:12]
    folder = _cache() / f"{server.name}-{content}"
    folder.mkdir(parents=True, exist_ok=True)
    python, complete = folder / "environment" / "bin" / "python", folder / "complete"
    with (folder / "lock").open("w") as lock:  # Of several test processes, one makes it and the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder / "environment", ignore_errors=True)
            _uv("venv", "--quiet", "--python", str(base), str(folder / "environment"))
            _uv("pip", "install", "--quiet", "--python", str(python), "--requirement", str(requirements))
            complete.touch()
    return python


def find_python(oldest: tuple[int, int], newest: tuple[int, int]) -> Path:
    """An interpreter of one of these versions: the one that runs the tests, on the path, of pyenv or of uv.

    Raises:
        NoPython: There is none.
    """
    if oldest <= sys.version_info[:2] <= newest:
        return Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    versions = [(3, minor) for minor in range(oldest[1], newest[1] + 1)]
    for major, minor in versions:
        name = f"python{major}.{minor}"
        candidates = [
            shutil.which(name),
            *sorted(_pyenv().glob(f"{major}.{minor}.*/bin/{name}"), reverse=True),
        ]
        for candidate in candidates:
            if candidate and _runs(str(candidate)):
                return Path(candidate)
        found = subprocess.run(
            [
                *_uv_command(),
                "python",
                "find",
                "--managed-python",
                "--no-python-downloads",
                f"{major}.{minor}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode == 0:
            return Path(found.stdout.strip())
    wanted = " or ".join(f"{major}.{minor}" for major, minor in versions)
    raise NoPython(f"this machine has no Python {wanted}")


def _runs(python: str) -> bool:
    # A shim of pyenv is on the path for versions that are not chosen, and only says so.
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def _pyenv() -> Path:
    return Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "databricks-supervisor-tests"


def _uv_command() -> list[str]:
    found = os.environ.get("UV") or shutil.which("uv")
    return [found] if found else [sys.executable, "-m", "uv"]


def _uv(*arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    run = subprocess.run(
        [*_uv_command(), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_MADE_WITHIN_S,
        check=False,
    )
    if run.returncode != 0:
        raise RuntimeError(f"uv {' '.join(arguments)} failed:\n{run.stdout}{run.stderr}")
