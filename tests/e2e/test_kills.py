"""A run that is killed anywhere, again and again, submits once and answers completely."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.conftest import SEED
from tests.e2e.forked_processes import Event
from tests.e2e.scenario import PACE, Scenario, in_parallel

NewScenario = Callable[..., Scenario]

KILLS = 20
"""Kills in each phase, store and durability."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a run in which it is killed.

    Attributes:
        moments: Named moments of it (:func:`.runner._moment`); every second kill is at one of them.
        gate: The event after which a random wait begins, for the other kills.
        latest: The gate is passed for the first, … or at most for this time.
        window_s: The longest random wait.
        behaviours: What the service does, one of these.
        spec: What the process does.
    """

    moments: tuple[str, ...]
    gate: str
    window_s: float
    latest: int = 1
    behaviours: tuple[dict[str, Any], ...] = ({},)
    spec: dict[str, Any] = field(default_factory=dict)


PHASES = {
    "before the POST": Phase(
        ("run begins", "turn opened", "submit begins", "client built"), "started", 0.3, spec={"login_s": 0.25}
    ),
    "during the POST": Phase(
        ("claimed", "posting", "answered"),
        "posting",
        0.4,
        behaviours=({"answer_delay_s": 0.4}, {"accept_delay_s": 0.4}),
    ),
    "after the POST": Phase(("recorded", "submit returns", "poll begins"), "recorded", 0.03),
    "between polls": Phase(("polling", "polled", "poll returns"), "polled", 0.12, latest=3),
    "after the last item": Phase(("turn ended", "last poll returns", "run ended"), "turn ended", 0.04),
}
STORES = [(store, durability) for store in ("sqlite", "postgres") for durability in ("sync", "inherit")]


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_run_submits_once_and_answers_in_full(phase: str, new_scenario: NewScenario) -> None:
    chance = random.Random(f"{SEED} {phase}")
    in_parallel(
        lambda *case: survive(new_scenario(*case[:2]), phase, case[2]),
        [(*store, chance.randrange(KILLS)) for store in STORES],
    )


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("store", "durability"), STORES)
def test_a_run_killed_at_twenty_moments_submits_once_and_answers_in_full(
    phase: str, store: str, durability: str, new_scenario: NewScenario
) -> None:
    in_parallel(
        lambda number: survive(new_scenario(store, durability), phase, number),
        [(number,) for number in range(KILLS)],
    )


def survive(scenario: Scenario, name: str, number: int) -> None:
    """Ask, kill, resume (and kill again) until the end; check what must hold."""
    phase = PHASES[name]
    assert scenario.store is not None
    chance = random.Random(f"{SEED} {name} {scenario.store.kind} {scenario.durability} {number}")
    scenario.behaviour = {**PACE, **chance.choice(phase.behaviours)}
    kill_in(scenario, phase, number, chance)
    assert scenario.submissions <= 1
    if name in ("after the POST", "between polls", "after the last item"):
        assert scenario.ledger() not in ("nothing", "claimed")
    end = finish(scenario, chance, more_kills=chance.choice((0, 0, 1, 2)))
    if end["status"] == "error":
        assert end["error"] == "SubmissionUnknownError"
        assert scenario.submissions <= 1
        return
    scenario.check_answered(end)
    if scenario.approvals:
        assert name in ("before the POST", "during the POST")
        assert 1 <= scenario.submissions <= 1 + scenario.approvals
    else:
        assert scenario.submissions == 1


def kill_in(scenario: Scenario, phase: Phase, number: int, chance: random.Random) -> None:
    """Ask the question in a process that dies in the phase."""
    nth = chance.randint(1, phase.latest)
    if number % 2 == 0:
        moment = phase.moments[number // 2 % len(phase.moments)]
        run = scenario.start(
            scenario.again, **phase.spec, die_at=[moment, 1 if moment == "poll returns" else nth]
        )
        assert run.wait() == -9, run.events[-3:]
        return
    run = scenario.start(scenario.again, **phase.spec)
    assert run.wait_for(phase.gate, nth) is not None
    time.sleep(chance.uniform(0, phase.window_s))
    run.kill()


def finish(scenario: Scenario, chance: random.Random, more_kills: int) -> Event:
    """Resume until there is an answer, or a person gave it up."""
    given: Any = None
    asked = False
    while True:
        before = scenario.ledger()
        run = scenario.start(given)
        if more_kills:
            more_kills -= 1
            run.kill_after(chance.uniform(0, 0.9))
            given = None
            continue
        end = run.end()
        if end.get("error") == "NothingToResumeError":
            given = scenario.again
        elif end["status"] == "waits":
            # Asked only where nobody knows, and always there.
            assert given is None or given == scenario.again
            assert before == "claimed"
            approve = chance.random() < 0.5
            given, asked = {"answer": answer_of(end, approve=approve)}, True
            scenario.approvals += approve
        else:
            assert asked or before != "claimed", "it went on although nobody knows"
            return end


def answer_of(end: Event, *, approve: bool) -> dict[str, Any]:
    """A person's answer to the question whether to send it again."""
    (asked,) = end["asked"]
    assert asked["value"]["kind"] == "repeat_submission"
    assert [request["name"] for request in asked["value"]["action_requests"]] == ["resubmit_job"]
    decision = {"type": "approve"} if approve else {"type": "reject", "message": "not twice"}
    return {asked["id"]: {"decisions": [decision]}}
