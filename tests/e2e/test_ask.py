"""Whole `ask` processes, as people start them: killed, and gone on with by another one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import SEED
from tests.e2e.forked_processes import Process, wait_until
from tests.e2e.scenario import ITEMS, PACE, Scenario, in_parallel

TOKEN = f"canary{uuid.uuid4().hex}"
TEXTS = [item["content"][0]["text"] for item in ITEMS]
WAYS = ("killed during the POST", "killed between polls", "killed after an item", "Ctrl-C during the POST")

NewScenario = Callable[..., Scenario]


def test_ask_goes_on_after_a_kill_with_the_job_it_had(new_scenario: NewScenario, tmp_path: Path) -> None:
    chosen = random.Random(f"{SEED} ask").sample(WAYS, 1)
    in_parallel(lambda how: survive(new_scenario, how, tmp_path), [(how,) for how in chosen])


@pytest.mark.full
@pytest.mark.timeout(900)
def test_ask_goes_on_after_every_kill_and_ctrl_c_with_the_job_it_had(
    new_scenario: NewScenario, tmp_path: Path
) -> None:
    in_parallel(lambda how: survive(new_scenario, how, tmp_path), [(how,) for how in WAYS], workers=2)


def survive(new_scenario: NewScenario, how: str, folder: Path) -> None:
    """Ask, kill the process or stop it, and go on with its thread in another one."""
    scenario = new_scenario(("sqlite", "postgres")[WAYS.index(how) % 2])
    scenario.behaviour = {**PACE, "duration_s": 2.0}
    if how.endswith("during the POST"):
        scenario.behaviour["answer_delay_s"] = 20.0 if how.startswith("killed") else 1.0
    run = ask(scenario, folder, scenario.question)
    try:
        cut_off(run, scenario, how)
    finally:
        run.kill()
    assert scenario.submissions == 1
    again = ask(scenario, folder, "--approve-all")
    code, end = again.wait(), again.end()
    assert scenario.submissions == 1
    if how == "killed during the POST":
        # Never guessed, and not what --approve-all is about.
        assert (code, end["status"]) == (5, "unknown"), again.events
        question = again.wait_for("question")
        assert question is not None
        assert question["kind"] == "repeat_submission"
    else:
        assert (code, end["status"]) == (0, "completed"), again.events
        at = [end["text"].index(text) for text in TEXTS]
        assert at == sorted(at)
        assert all(end["text"].count(text) == 1 for text in TEXTS)
        scenario.check_answered(scenario.run(None))
    said = repr(run.events + again.events).encode() + run.log.read_bytes()
    assert TOKEN.encode() not in said
    if scenario.store is not None and scenario.store.kind == "sqlite":
        file = Path(scenario.store.address)
        assert not any(TOKEN.encode() in each.read_bytes() for each in file.parent.glob(f"{file.name}*"))


def cut_off(run: Process, scenario: Scenario, how: str) -> None:
    wait_until(lambda: scenario.submissions == 1 or not run.running(), "the POST")
    if how == "killed between polls":
        scenario.wait_for_polls(1)
    elif how == "killed after an item":
        assert run.wait_for("item"), run.events
    if how.startswith("Ctrl-C"):
        run.signal(signal.SIGINT)
        assert run.wait() == 130
        assert run.end()["status"] == "interrupted"
        assert scenario.ledger() not in ("nothing", "claimed")


def ask(scenario: Scenario, folder: Path, *arguments: str) -> Process:
    """Start ``ask … --thread ID --json`` on the scenario's thread."""
    assert scenario.store is not None
    address = scenario.store.address
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SUPERVISOR_")},
        "DATABRICKS_HOST": scenario.service.url,
        "DATABRICKS_TOKEN": TOKEN,
        "DATABRICKS_CONFIG_FILE": str(folder / "no-such-file"),
        "NO_PROXY": "127.0.0.1",
        "SUPERVISOR_STATE_URL": f"sqlite:///{address}" if scenario.store.kind == "sqlite" else address,
        "SUPERVISOR_POLL_INTERVAL": "0.2",
    }
    log = folder / f"{scenario.thread}.txt"
    events, events_in = os.pipe()
    with log.open("ab") as errors:
        started = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "agent_server.cli.ask",
                "--thread",
                scenario.thread,
                "--json",
                "--verbose",
                *arguments,
            ],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=events_in,
            stderr=errors,
        )
    os.close(events_in)
    return Process(started.pid, events, -1, lambda _: started.wait(), log)
