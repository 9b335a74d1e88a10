"""Supervisors in a larger graph: twenty branches that ask the same, and calls of a tool, killed and resumed."""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import SEED
from tests.e2e.forked_processes import Event, ForkServer, wait_until
from tests.e2e.scenario import Scenario, Store, in_parallel
from tests.support.local_supervisor_process import LocalSupervisor

ASKS = {
    "reply": "I would publish it.",
    "approvals": [{"name": "publish", "server_label": "reports", "arguments": {"title": "Sales"}}],
    "rounds": [{"reply": "Here it is."}],
}
CONNECTION = {"type": "uc_connection", "uc_connection": {"name": "reports"}}
APPROVE = {"decisions": [{"type": "approve"}]}
WIDTH = {"send": 20, "wrapped": 20, "tools": 4, "agent": 4, "task": 4}

SHAPES = [
    shape if shape in ("send", "task") else pytest.param(shape, marks=pytest.mark.full) for shape in WIDTH
]
"""The default run has a parent of each kind: many branches in one step, and calls in one task."""

KILLS = [
    # The moment, as a share of the branches that have passed it, and whether a POST can be under way then.
    ("posting", 0.5, True),
    ("recorded", 0.5, True),
    ("recorded", 1.0, False),
    ("submit returns", 1.0, False),
    ("polling", 1.0, True),
    ("last poll returns", 0.5, False),
    ("turn ended", 1.0, False),
]
MATRIX = list(itertools.product(WIDTH, ("sync", "async"), KILLS))

NewScenario = Callable[..., Scenario]


class FanOutForkServer(ForkServer):
    """A fork server whose children run :mod:`.fan_out_runner`."""

    def __init__(self, log: Path) -> None:
        super().__init__(log, "tests.e2e.fan_out_runner")


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FanOutForkServer]:
    """Starts processes whose supervisors have a parent."""
    with FanOutForkServer(tmp_path_factory.mktemp("fan-out") / "stderr.txt") as server:
        yield server


@pytest.fixture
def new_scenario(
    fork_server: FanOutForkServer, service: LocalSupervisor, shared_postgres: Store, tmp_path: Path
) -> NewScenario:
    """Makes a question that is asked in all branches of a parent."""

    def make(shape: str, durability: str = "sync", store: str = "sqlite", **behaviour: Any) -> Scenario:
        said = {"reply": "Here it is.", "duration_s": 0.3}
        scenario = Scenario(
            fork_server, service, shared_postgres, durability, behaviour={**said, **behaviour}
        )
        scenario.spec |= {"shape": shape, "width": WIDTH[shape], "options": {"tools": [CONNECTION]}}
        if store == "sqlite":
            scenario.store = Store("sqlite", str(tmp_path / f"{scenario.thread}.sqlite"))
        return scenario

    return make


def answers(end: Event) -> int:
    """How many answers the parent has."""
    assert end["status"] == "answered", end
    found = [*end["answers"], *(text for _, text in end["texts"])]
    return sum(text == "Here it is." for text in found)


def kinds(end: Event) -> set[str]:
    return {asked["value"]["kind"] for asked in end["asked"]}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_branch_is_a_job_and_the_next_turn_has_new_ones(new_scenario: NewScenario, shape: str) -> None:
    scenario = new_scenario(shape)
    for turn in (1, 2):
        process = scenario.start(scenario.again)
        assert answers(process.end()) == (1 if shape == "task" else turn) * WIDTH[shape]
        assert scenario.submissions == turn * WIDTH[shape]
        said = {event["response_id"] for event in process.events if event["event"] == "progress"}
        assert len(said) == WIDTH[shape]


@pytest.mark.parametrize(
    "shape", ["send", *(pytest.param(shape, marks=pytest.mark.full) for shape in ("wrapped", "agent"))]
)
def test_approvals_are_answered_in_any_order_by_any_process(new_scenario: NewScenario, shape: str) -> None:
    chance = random.Random(f"{SEED} {shape}")
    scenario = new_scenario(shape, **ASKS)
    end = scenario.run(scenario.again)
    waiting = {asked["id"] for asked in end["asked"]}
    assert len(waiting) == WIDTH[shape]
    while waiting:
        some = chance.sample(sorted(waiting), min(len(waiting), chance.choice([1, 5, 12])))
        end = scenario.run({"answer": dict.fromkeys(some, APPROVE)})
        assert {asked["id"] for asked in end["asked"]} == waiting - set(some)
        waiting -= set(some)
    assert answers(end) == WIDTH[shape]
    assert scenario.submissions == 2 * WIDTH[shape]


def test_calls_in_one_task_ask_one_after_the_other(new_scenario: NewScenario) -> None:
    scenario = new_scenario("tools", **ASKS)
    end = scenario.run(scenario.again)
    seen = set()
    for number in range(1, WIDTH["tools"] + 1):
        [asked] = end["asked"]
        if asked["value"]["kind"] == "repeat_submission":
            break  # See below.
        seen.add(asked["value"]["response_id"])
        assert len(seen) == number  # Another one each time,
        assert (
            scenario.submissions < WIDTH["tools"] + number
        )  # and nothing is sent for those that were not shown.
        end = scenario.run({"answer": APPROVE})
    repeats = 0
    while (
        end["status"] == "waits"
    ):  # A neighbour's question ended the run while this one's POST was under way.
        repeats += end["asked"][0]["value"]["kind"] == "repeat_submission"
        end = scenario.run({"answer": APPROVE})
    assert answers(end) == WIDTH["tools"]
    assert 2 * WIDTH["tools"] <= scenario.submissions <= 2 * WIDTH["tools"] + repeats


@pytest.mark.parametrize("part", range(2))
def test_killed_in_the_middle_and_resumed_no_branch_submits_twice(
    new_scenario: NewScenario, part: int
) -> None:
    chance = random.Random(f"{SEED} fan-out")
    cases = [("send", "async", KILLS[2]), ("send", "sync", KILLS[4]), *chance.sample(MATRIX, 2)]
    in_parallel(lambda *case: survive(new_scenario, *case), cases[part::2], workers=2)


@pytest.mark.full
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
@pytest.mark.parametrize("shape", WIDTH)
def test_the_whole_matrix(new_scenario: NewScenario, shape: str, store: str) -> None:
    cases = [(*case, store) for case in MATRIX if case[0] == shape]
    in_parallel(lambda *case: survive(new_scenario, *case), cases, workers=2)


def survive(
    new_scenario: NewScenario,
    shape: str,
    durability: str,
    kill: tuple[str, float, bool],
    store: str = "sqlite",
) -> None:
    """Kill a run at a moment, resume it, and count."""
    moment, share, may_be_unknown = kill
    width = WIDTH[shape]
    scenario = new_scenario(shape, durability, store)
    process = scenario.start(scenario.again, die_at=[moment, max(1, round(share * width))])
    assert process.wait() == -signal.SIGKILL
    end = scenario.resume()
    if end["asked"]:
        assert may_be_unknown, end
    answered: set[str] = set()
    while end["asked"]:
        assert kinds(end) == {"repeat_submission"}
        asking = {asked["id"] for asked in end["asked"]}
        assert not asking & answered, "an answer was lost"
        answered |= asking
        end = scenario.run({"answer": dict.fromkeys(asking, APPROVE)})
    scenario.approvals = len(answered)
    assert answers(end) == width
    assert scenario.submissions - scenario.approvals <= width
    if not may_be_unknown:
        assert scenario.submissions == width


@pytest.mark.parametrize("shape", SHAPES)
def test_a_second_attempt_while_the_first_one_lives_finds_its_jobs(
    new_scenario: NewScenario, shape: str
) -> None:
    scenario = new_scenario(shape, duration_s=2)
    first = scenario.start(scenario.again)
    wait_until(lambda: scenario.submissions == WIDTH[shape], "the submissions")
    second = scenario.start(None)
    for process in (first, second):
        assert answers(process.end()) == WIDTH[shape]
    assert scenario.submissions == WIDTH[shape]
