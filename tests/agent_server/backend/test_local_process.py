"""`ask` without a workspace: the local supervisor is started, shared, started again, and ends by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agent_server.backend import local_process as local
from tests.support.processes import (
    ROOT,
    environment,
    events,
    local_supervisors,
    no_local_supervisor_left,
    whole_process,
)

QUICK = '[[local: {"speed": 50}]]'


@pytest.fixture
def alone(here: Path) -> Iterator[Path]:
    """A working directory of which no process is left."""
    with no_local_supervisor_left(here) as directory:
        yield directory


@pytest.mark.full
def test_two_at_once_share_one_that_outlives_them(alone: Path) -> None:
    env = environment()
    both = [
        whole_process(alone, f"Which product sold best in {year}? {QUICK}", "--json", env=env)
        for year in (2024, 2025)
    ]
    for process in both:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        found = events(out)
        assert "local supervisor" in found[1]["message"]
        assert "had the highest revenue" in found[-1]["text"]
    (pid,) = local_supervisors(alone)

    # Killed, it is started again on the same data, and the thread goes on.
    os.kill(pid, signal.SIGKILL)
    thread = found[0]["thread_id"]
    process = whole_process(alone, f"And by region? {QUICK}", "--thread", thread, "--json", env=env)
    out, _ = process.communicate()
    assert process.returncode == 0
    (again,) = local_supervisors(alone)
    assert again != pid
    port = local.ensure_local(alone / local.DIRECTORY)
    submissions = httpx.get(f"http://127.0.0.1:{port}/_local/submissions", trust_env=False).json()
    assert submissions["count"] == 3


def test_ctrl_c_before_anything_was_asked(alone: Path) -> None:
    process = whole_process(alone, "hello", env=environment())
    assert process.stdout is not None
    thread = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()

    assert thread.startswith("thread: ")
    assert (process.returncode, err) == (130, "")
    assert out.splitlines()[-1] == "Interrupted. Nothing was submitted."


def test_the_script_is_installed(alone: Path) -> None:
    script = Path(sys.executable).with_name("ask")
    done = subprocess.run(
        [script, "--thread", "never-was"], cwd=alone, env=environment(), capture_output=True
    )
    assert done.returncode == 2
    assert b"not known here" in done.stderr


def test_a_killed_starter_leaves_one_that_is_found(alone: Path) -> None:
    directory = alone / "local"
    code = "import os, sys; from agent_server.backend import local_process as local; "
    code += "local._healthy = lambda port: os._exit(9); "
    code += "local.ensure_local(local.Path(sys.argv[1]))"
    assert subprocess.run([sys.executable, "-c", code, directory], cwd=ROOT).returncode == 9

    local.ensure_local(directory)
    assert len(local_supervisors(directory)) == 1


def test_the_port_of_another_one_is_not_taken_for_it(alone: Path) -> None:
    theirs = local.ensure_local(alone / "theirs")
    mine = alone / "mine"
    mine.mkdir()
    (mine / "port").write_text(f"{theirs} 1")

    assert local.ensure_local(mine) != theirs
    assert len(local_supervisors(mine)) == 1


def test_a_directory_that_cannot_be_used(alone: Path) -> None:
    (alone / "file").write_text("")
    with pytest.raises(local.NotReachableError, match="cannot use"):
        local.ensure_local(alone / "file" / "local")


def test_it_ends_when_idle_but_not_while_a_job_runs(alone: Path) -> None:
    command = [sys.executable, "-m", "local_supervisor", "--port", "0", "--data", str(alone / "data")]
    command += ["--port-file", str(alone / "port"), "--idle-exit", "0.5"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not (alone / "port").exists():
        assert process.poll() is None
        time.sleep(0.02)
    port = (alone / "port").read_text().split()[0]
    body = {
        "model": "m",
        "background": True,
        "input": [{"role": "user", "content": f"x [[local: {json.dumps({'duration_s': 3})}]]"}],
    }
    began = time.time()
    httpx.post(
        f"http://127.0.0.1:{port}/ai-gateway/mlflow/v1/responses",
        json=body,
        headers={"Authorization": "Bearer x"},
        trust_env=False,
    ).raise_for_status()

    assert process.wait(timeout=30) == 0
    assert time.time() - began >= 3
