"""Killed while a person decides or a function runs: each decision, follow-up and call happens once."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.approval_scenario import (
    ApprovalForkServer,
    ApprovalScenario,
    NewApprovalScenario,
    approval_fork_server,
    approval_scenarios,
)
from tests.e2e.conftest import SEED
from tests.e2e.forked_processes import Event, wait_until
from tests.e2e.scenario import Store, in_parallel
from tests.support.local_supervisor_process import LocalSupervisor

KILLS = 20
"""Kills in each phase, store and durability."""

FUNCTIONS = ("note", "note_async", "note_failing")
SLOW = ({"answer_delay_s": 0.3}, {"accept_delay_s": 0.3})


@dataclass(frozen=True)
class Phase:
    """A stretch of a run in which it is killed.

    Attributes:
        moments: Named moments of it; every second kill is at one of them, each with its number.
        gate: The event after which a random wait begins, for the other kills, with its number.
        window_s: The longest random wait.
        answered: Whether the process that is killed brings the person's answer.
        approvals: How many tool calls wait for a person.
        calls: How many functions are called.
        follow_ups: How the service takes the follow-up, one of these.
        spec: What the process does.
    """

    moments: tuple[tuple[str, int], ...]
    gate: tuple[str, int]
    window_s: float
    answered: bool
    approvals: tuple[int, ...] = (1, 2)
    calls: tuple[int, ...] = (0, 1)
    follow_ups: tuple[dict[str, Any], ...] = ({},)
    spec: dict[str, Any] = field(default_factory=dict)


RUNNING = Phase(
    (("tool claimed", 1), ("function begins", 1), ("function wrote", 1), ("function ends", 1)),
    ("function begins", 1),
    0.35,
    answered=False,
    approvals=(0,),
    calls=(1, 2),
    spec={"tool_s": 0.15},
)
PHASES = {
    "a person is asked": Phase(
        (("approve begins", 1), ("waits", 1)),
        ("approve begins", 1),
        0.3,
        answered=False,
        spec={"linger_s": 0.4},
    ),
    "the answer is given": Phase(
        (
            ("run begins", 1),
            ("approve begins", 1),
            ("decision claimed", 1),
            ("decision recorded", 1),
            ("approve returns", 1),
        ),
        ("approve begins", 1),
        0.05,
        answered=True,
    ),
    "the follow-up is sent": Phase(
        (("claimed", 1), ("posting", 1), ("answered", 1), ("recorded", 1), ("submit returns", 1)),
        ("posting", 1),
        0.35,
        answered=True,
        follow_ups=SLOW,
    ),
    "a function runs": RUNNING,
    "a function is done": Phase(
        (("tool recorded", 1), ("call_tools returns", 1), ("submit begins", 2)),
        ("tool recorded", 1),
        0.03,
        answered=False,
        approvals=(0,),
        calls=(1, 2),
    ),
}
STORES = [(store, durability) for store in ("sqlite", "postgres") for durability in ("sync", "inherit")]


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApprovalForkServer]:
    """Starts processes whose agents have functions."""
    yield from approval_fork_server(tmp_path_factory.mktemp("approval-fork-server"))


@pytest.fixture
def new_scenario(
    fork_server: ApprovalForkServer, service: LocalSupervisor, shared_postgres: Store, tmp_path: Path
) -> NewApprovalScenario:
    """Makes scenarios with approvals."""
    return approval_scenarios(fork_server, service, shared_postgres, tmp_path)


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_run_sends_each_decision_once_and_runs_each_function_once(
    phase: str, new_scenario: NewApprovalScenario
) -> None:
    chance = random.Random(f"{SEED} approval {phase}")
    in_parallel(
        lambda *case: survive(new_scenario(*case[:2]), phase, case[2]),
        sample(chance),
    )


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("store", "durability"), STORES)
def test_a_run_killed_at_twenty_moments_sends_each_decision_once_and_runs_each_function_once(
    phase: str, store: str, durability: str, new_scenario: NewApprovalScenario
) -> None:
    in_parallel(
        lambda number: survive(new_scenario(store, durability), phase, number),
        [(number,) for number in range(KILLS)],
    )


def test_a_function_that_is_safe_to_repeat_is_run_again_unasked(new_scenario: NewApprovalScenario) -> None:
    chance = random.Random(f"{SEED} safe")
    in_parallel(
        lambda *case: repeat_unasked(new_scenario(*case[:2]), case[2]),
        sample(chance),
    )


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("store", "durability"), STORES)
def test_a_function_that_is_safe_to_repeat_is_run_again_unasked_twenty_times(
    store: str, durability: str, new_scenario: NewApprovalScenario
) -> None:
    in_parallel(
        lambda number: repeat_unasked(new_scenario(store, durability), number),
        [(number,) for number in range(KILLS)],
    )


@pytest.mark.parametrize(
    ("function", "store"),
    [
        pytest.param("note", "sqlite", marks=pytest.mark.full),
        ("note_async", "postgres"),
        pytest.param("note_failing", "sqlite", marks=pytest.mark.full),
    ],
)
def test_a_function_that_was_cut_off_and_is_not_to_be_repeated_is_an_error_to_the_agent(
    function: str, store: str, new_scenario: NewApprovalScenario
) -> None:
    scenario = new_scenario(store, calls=[{"name": function, "arguments": {"text": "a"}}])
    assert scenario.start(scenario.again, die_at=["function wrote", 1]).wait() == -9
    asked = scenario.run(None)
    assert [action["name"] for action in asked["asked"][0]["value"]["action_requests"]] == [function]
    end = scenario.run(answer(scenario, asked, lambda kind: False))
    assert scenario.lines == ["a"]
    assert scenario.rounds == [0, 1]
    (output,) = [
        item for item in scenario.jobs[1]["request"]["input"] if item["type"] == "function_call_output"
    ]
    assert "was cut off" in output["output"]
    assert "it was not run again (not twice)" in output["output"]
    scenario.check_consistent(end)


# ---- the demonstration's tool

PUBLISHING = ("decision recorded", "approve returns", "claimed", "posting", "answered", "recorded", "polled")


def test_the_tool_is_called_after_the_approval_only(
    fork_server: ApprovalForkServer, shared_postgres: Store, tmp_path: Path
) -> None:
    with LocalSupervisor(tmp_path / "service") as service:
        scenario = publishing(approval_scenarios(fork_server, service, shared_postgres, tmp_path)("postgres"))
        asked = scenario.run(scenario.again)
        assert [action["name"] for action in asked["asked"][0]["value"]["action_requests"]] == [
            "publish_report"
        ]
        assert published(service) is None
        refused = scenario.run(answer(scenario, asked, lambda kind: False))
        scenario.check_consistent(refused)
        assert "refused" in refused["messages"][-1]["items"][0]["content"][0]["text"]
        assert published(service) is None
        scenario = publishing(approval_scenarios(fork_server, service, shared_postgres, tmp_path)("sqlite"))
        asked = scenario.run(scenario.again)
        assert published(service) is None
        end = scenario.run(answer(scenario, asked, lambda kind: True))
        scenario.check_consistent(end)
        assert published(service) == 1


def test_what_was_approved_once_is_published_once_although_the_run_is_killed(
    fork_server: ApprovalForkServer, shared_postgres: Store, tmp_path: Path
) -> None:
    chance = random.Random(f"{SEED} published")
    with LocalSupervisor(tmp_path / "service") as service:
        make = approval_scenarios(fork_server, service, shared_postgres, tmp_path)
        moments = chance.sample(PUBLISHING, 3)
        for number, moment in enumerate(moments, 1):
            publish_and_die(publishing(make(*chance.choice(STORES))), moment)
            assert published(service) == number


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("store", "durability"), STORES)
def test_what_was_approved_once_is_published_once_wherever_the_run_is_killed(
    store: str, durability: str, fork_server: ApprovalForkServer, shared_postgres: Store, tmp_path: Path
) -> None:
    with LocalSupervisor(tmp_path / "service") as service:
        make = approval_scenarios(fork_server, service, shared_postgres, tmp_path)
        for number, moment in enumerate(PUBLISHING, 1):
            publish_and_die(publishing(make(store, durability)), moment)
            assert published(service) == number


def publishing(scenario: ApprovalScenario) -> ApprovalScenario:
    """Let the question be one that ends with a call of the demonstration's tool."""
    scenario.opening = "Publish the sales of last quarter to #sales for"
    return scenario


def published(service: LocalSupervisor) -> int | None:
    """How many reports the tool has written; ``None`` without a file."""
    file = service.directory / "published.md"
    return file.read_text().count("# Sales by") if file.exists() else None


def publish_and_die(scenario: ApprovalScenario, moment: str) -> None:
    """Approve, die, and go on until it is published; asked whether to send it again, a person looks first."""
    before = published(scenario.service) or 0
    given = answer(scenario, scenario.run(scenario.again), lambda kind: True)
    assert scenario.start(given, die_at=[moment, 1]).wait() == -9
    end = scenario.run(None)
    while end["status"] == "waits":
        end = scenario.run(
            answer(scenario, end, lambda kind: kind == "mcp_approval" or 1 not in scenario.rounds)
        )
    wait_until(lambda: (published(scenario.service) or 0) > before, "a report")
    assert scenario.rounds == [0, 1]
    if end["status"] == "answered":
        scenario.check_consistent(end)
    else:
        assert end["error"] == "SubmissionUnknownError"


# ---- killing


def sample(chance: random.Random) -> list[tuple[str, str, int]]:
    """A kill for each store, with a durability and a number by chance."""
    durabilities = chance.sample(("sync", "inherit"), 2)
    numbers = (2 * chance.randrange(KILLS // 2), 2 * chance.randrange(KILLS // 2) + 1)
    return list(zip(("sqlite", "postgres"), durabilities, chance.sample(numbers, 2), strict=True))


def survive(scenario: ApprovalScenario, name: str, number: int) -> None:
    """Ask, kill in the phase, resume (and kill again) until the end; check what must hold."""
    phase = PHASES[name]
    assert scenario.store is not None
    chance = random.Random(f"{SEED} {name} {scenario.store.kind} {scenario.durability} {number}")
    texts = begin_scenario(scenario, phase, chance)
    kill_in(scenario, phase, number, chance)
    end = finish(scenario, chance, more_kills=chance.choice((0, 0, 0, 1)))
    check_once(scenario, texts, end)


def begin_scenario(scenario: ApprovalScenario, phase: Phase, chance: random.Random) -> list[str]:
    """Choose what the service asks for; gives what the functions are to write."""
    texts = [f"text{n}" for n in range(chance.choice(phase.calls))]
    scenario.behaviour |= {
        "calls": [{"name": chance.choice(FUNCTIONS), "arguments": {"text": text}} for text in texts],
        "approvals": [
            {"name": f"send{n}", "server_label": "mail"} for n in range(chance.choice(phase.approvals))
        ],
        "rounds": [{**chance.choice(phase.follow_ups), "reply": "done"}],
    }
    return texts


def kill_in(scenario: ApprovalScenario, phase: Phase, number: int, chance: random.Random) -> None:
    """Ask the question, and answer what it asks for, in processes of which one dies in the phase."""
    given: Any = scenario.again
    if phase.answered:
        given = answer(scenario, scenario.run(given), lambda kind: chance.random() < 0.5)
    if number % 2 == 0:
        run = scenario.start(given, **phase.spec, die_at=phase.moments[number // 2 % len(phase.moments)])
        assert run.wait() == -9, run.events[-3:]
        return
    run = scenario.start(given, **phase.spec)
    assert run.wait_for(*phase.gate) is not None
    time.sleep(chance.uniform(0, phase.window_s))
    run.kill()


def finish(scenario: ApprovalScenario, chance: random.Random, more_kills: int) -> Event:
    """Resume until there is an answer, or a person gave it up."""
    given: Any = None
    standing: dict[str, bool] = {}
    while True:
        unknown = {kind: scenario.unknown(kind) for kind in ("submit", "tool")}
        recorded = scenario.recorded_decisions
        assert standing.items() <= recorded.items(), "a decision was changed"
        standing = recorded
        run = scenario.start(given)
        if more_kills:
            more_kills -= 1
            run.kill_after(chance.uniform(0, 0.8))
            given = None
            continue
        end = run.end()
        if end.get("error") == "NothingToResumeError":
            given = scenario.again
        elif end["status"] == "waits":
            kind = end["asked"][0]["value"]["kind"]
            # Asked only where nobody knows.
            assert kind != "repeat_submission" or unknown["submit"]
            assert kind != "repeat_call" or unknown["tool"]
            given = answer(scenario, end, lambda _kind: chance.random() < 0.5)
        else:
            assert standing.items() <= scenario.recorded_decisions.items(), "a decision was changed"
            return end


def answer(scenario: ApprovalScenario, end: Event, say: Callable[[str], bool]) -> dict[str, Any]:
    """A person's answer; asked once more, a person may say something else."""

    def decide(kind: str, id: str) -> dict[str, Any]:
        yes = say(kind)
        scenario.said.setdefault(kind, []).append((id, yes))
        return {"type": "approve"} if yes else {"type": "reject", "message": "not twice"}

    return scenario.answer(end, decide)


def check_once(scenario: ApprovalScenario, texts: list[str], end: Event) -> None:
    """Nothing happened more often than a person wanted, and all of it happened."""
    again = [yes for _, yes in scenario.said.get("repeat_submission", [])]
    called_again = [yes for _, yes in scenario.said.get("repeat_call", [])]
    rounds = Counter(scenario.rounds)
    written = Counter(scenario.lines)
    attempts = {effect.id: effect.attempt for effect in scenario.effects if effect.kind == "tool"}
    assert set(written) <= set(texts)
    assert sum(attempts.values()) - len(attempts) <= called_again.count(True)
    assert sum(written.values()) <= sum(attempts.values())
    if not called_again:
        assert all(count == 1 for count in written.values())
    assert sum(rounds.values()) <= 2 + again.count(True)
    if end["status"] == "error":
        assert end["error"] == "SubmissionUnknownError"
        assert False in again
        return
    assert set(rounds) == {0, 1}
    if not again:
        assert rounds == {0: 1, 1: 1}
    if not called_again:
        assert written == Counter(texts)
    decided = scenario.recorded_decisions
    assert len(decided) == len(scenario.behaviour["approvals"])
    assert decided.items() <= set(scenario.said.get("mcp_approval", []))
    scenario.check_consistent(end)


def repeat_unasked(scenario: ApprovalScenario, number: int) -> None:
    """Kill a run while such a function runs, and resume it."""
    assert scenario.store is not None
    chance = random.Random(f"{SEED} safe {scenario.store.kind} {scenario.durability} {number}")
    scenario.behaviour |= {"calls": [{"name": "note_again", "arguments": {"text": "a"}}]}
    kill_in(scenario, RUNNING, number, chance)
    before = scenario.lines
    cut_off, sent = bool(scenario.unknown("tool")), bool(scenario.unknown("submit"))
    end = scenario.run(None)
    if end.get("error") == "NothingToResumeError":
        end = scenario.run(scenario.again)
    if sent:  # The kill came late, when the follow-up was on its way: that is asked about.
        end = scenario.run(answer(scenario, end, lambda kind: kind == "repeat_submission"))
    assert scenario.lines == ([*before, "a"] if cut_off else ["a"])
    assert scenario.rounds in ([0, 1], [0, 1, 1] if sent else [0, 1])
    scenario.check_consistent(end)
