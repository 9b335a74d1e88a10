"""Approvals that take their time, that several people give, and that nobody gives."""

from __future__ import annotations

import random
from collections.abc import Iterator
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
from tests.e2e.forked_processes import Event, Process
from tests.e2e.scenario import Store, in_parallel
from tests.support.local_supervisor_process import LocalSupervisor

RACES = 20
STORES = ("sqlite", "postgres")
SAMPLED_STORES = [STORES[0], *(pytest.param(store, marks=pytest.mark.full) for store in STORES[1:])]
WEEK_S = 7 * 24 * 3600.0
SEND = {"name": "send", "server_label": "mail", "arguments": {"to": "all"}}
THREE = [{"name": f"send{n}", "server_label": "mail", "arguments": {"n": n}} for n in range(3)]


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApprovalForkServer]:
    """Starts processes whose agents have functions."""
    yield from approval_fork_server(tmp_path_factory.mktemp("approval-fork-server"))


@pytest.fixture
def new_scenario(
    fork_server: ApprovalForkServer, service: LocalSupervisor, shared_postgres: Store, tmp_path: Any
) -> NewApprovalScenario:
    """Makes scenarios with approvals."""
    return approval_scenarios(fork_server, service, shared_postgres, tmp_path)


# ---- a week later


@pytest.mark.parametrize("approve", [True, pytest.param(False, marks=pytest.mark.full)])
def test_an_approval_is_answered_a_week_later_by_another_process(
    approve: bool, new_scenario: NewApprovalScenario
) -> None:
    scenario = new_scenario("postgres", approvals=[SEND])
    asked = scenario.run(scenario.again)
    polls = scenario.polls
    again = scenario.run(None, later_s=WEEK_S)
    assert again["asked"] == asked["asked"]
    end = scenario.run(everything(asked, approve), later_s=WEEK_S + 60)
    assert scenario.rounds == [0, 1]
    assert sum(job["polls"] for job in scenario.jobs if job["round"] == 0) == polls
    assert list(scenario.recorded_decisions.values()) == [approve]
    assert end["job"]["submitted_at"] - asked["job"]["submitted_at"] > WEEK_S
    scenario.check_consistent(end)


def test_a_function_that_was_cut_off_a_week_ago_is_asked_about_before_it_runs_again(
    new_scenario: NewApprovalScenario,
) -> None:
    scenario = new_scenario("postgres", calls=[{"name": "note", "arguments": {"text": "a"}}])
    assert scenario.start(scenario.again, die_at=["function wrote", 1]).wait() == -9
    asked = scenario.run(None, later_s=WEEK_S)
    assert asked["asked"][0]["value"]["kind"] == "repeat_call"
    assert scenario.lines == ["a"]
    end = scenario.run(everything(asked, True), later_s=2 * WEEK_S)
    assert scenario.lines == ["a", "a"]
    scenario.check_consistent(end)


# ---- at the same moment


def test_two_approvals_at_the_same_moment_are_one_follow_up(new_scenario: NewApprovalScenario) -> None:
    in_parallel(
        lambda *case: decide_at_once(new_scenario(*case[:2]), (True, True), case[2]),
        [(store, durability, 0) for store in STORES for durability in ("sync", "inherit")],
    )


def test_of_an_approval_and_a_denial_at_the_same_moment_one_stands(new_scenario: NewApprovalScenario) -> None:
    in_parallel(
        lambda *case: decide_at_once(new_scenario(*case[:2]), (True, False), case[2]),
        [(store, durability, 0) for store in STORES for durability in ("sync", "inherit")],
    )


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("answers", [(True, True), (True, False)])
@pytest.mark.parametrize("store", STORES)
def test_answers_at_the_same_moment_are_one_decision_and_one_follow_up_twenty_times(
    store: str, answers: tuple[bool, bool], new_scenario: NewApprovalScenario
) -> None:
    in_parallel(
        lambda number: decide_at_once(new_scenario(store, ("sync", "inherit")[number % 2]), answers, number),
        [(number,) for number in range(RACES)],
    )


def decide_at_once(scenario: ApprovalScenario, answers: tuple[bool, bool], number: int) -> None:
    """Two processes answer at the same moment; what stands is what everybody is told."""
    chance = random.Random(f"{SEED} {scenario.durability} {answers} {number}")
    scenario.behaviour |= {"approvals": [SEND], "rounds": [{"answer_delay_s": chance.choice((0.0, 0.2))}]}
    asked = scenario.run(scenario.again)
    runs = [scenario.start(everything(asked, approve), held=True) for approve in answers]
    for run in chance.sample(runs, 2):
        run.go()
    ends = [run.end() for run in runs]
    assert scenario.rounds == [0, 1]
    ((_, stands),) = scenario.recorded_decisions.items()
    assert stands in answers
    # The thread's state may be that of the other one, which is still under way.
    assert {end["status"] for end in ends} <= {"answered", "unfinished"}, ends
    for run, gave in zip(runs, answers, strict=True):
        if decided(run):
            assert conflicts(run) == ([] if gave == stands else [said(stands)])
        else:
            assert gave != stands or answers[0] == answers[1]
    assert any(decided(run) for run in runs)
    end = scenario.run(None)
    scenario.check_consistent(end)
    assert scenario.rounds == [0, 1]


def test_a_bare_yes_that_two_processes_give_at_once_does_not_answer_what_comes_next(
    new_scenario: NewApprovalScenario,
) -> None:
    in_parallel(
        lambda *case: say_yes_at_once(new_scenario(*case)),
        [(store, durability) for store in STORES for durability in ("sync", "inherit")],
    )


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", STORES)
def test_a_bare_yes_that_two_processes_give_at_once_does_not_answer_what_comes_next_twenty_times(
    store: str, new_scenario: NewApprovalScenario
) -> None:
    in_parallel(
        lambda number: say_yes_at_once(new_scenario(store, ("sync", "inherit")[number % 2])),
        [(number,) for number in range(RACES)],
    )


def say_yes_at_once(scenario: ApprovalScenario) -> None:
    scenario.behaviour |= {"approvals": [SEND], "rounds": [{"approvals": [{**SEND, "name": "delete"}]}]}
    asked = scenario.run(scenario.again)
    runs = [scenario.start({"answer": True}, held=True) for _ in range(2)]
    for run in runs:
        run.go()
    ends = [run.end() for run in runs]
    assert {end["status"] for end in ends} <= {"waits", "unfinished"}, ends
    assert scenario.recorded_decisions == {asked["asked"][0]["value"]["ids"][0]: True}
    assert scenario.rounds == [0, 1]
    end = scenario.run(None)
    assert [action["name"] for action in end["asked"][0]["value"]["action_requests"]] == ["delete"]
    end = scenario.run(everything(end, False))
    assert scenario.rounds == [0, 1, 2]
    scenario.check_consistent(end)


@pytest.mark.parametrize("store", SAMPLED_STORES)
def test_an_answer_that_comes_while_nothing_is_asked_is_no_answer_to_what_is_asked_later(
    store: str, new_scenario: NewApprovalScenario
) -> None:
    scenario = new_scenario(store, approvals=[SEND], duration_s=1.0)
    assert scenario.start(scenario.again, die_at=["polled", 1]).wait() == -9
    end = scenario.run({"answer": {"decisions": [{"type": "approve"}]}})
    assert end["status"] == "waits"
    assert scenario.recorded_decisions == {}
    assert scenario.rounds == [0]


# ---- in part


def test_three_approvals_answered_by_two_processes_are_one_follow_up(
    new_scenario: NewApprovalScenario,
) -> None:
    in_parallel(
        lambda *case: answer_in_part(new_scenario(*case)),
        [(store, durability) for store in STORES for durability in ("sync", "inherit")],
    )


def answer_in_part(scenario: ApprovalScenario) -> None:
    """One answer today, two by somebody else, two more wrong ones in between."""
    scenario.behaviour |= {"approvals": THREE}
    asked = scenario.run(scenario.again)
    first, second, third = asked["asked"][0]["value"]["ids"]
    rest = scenario.run(resume(asked, {second: False}))
    assert rest["asked"][0]["value"]["ids"] == [first, third]
    assert scenario.rounds == [0]
    assert scenario.recorded_decisions == {second: False}
    stale = scenario.run(resume(rest, {first: True, second: True}))
    assert "Not pending" in stale["asked"][0]["value"]["error"]
    assert stale["asked"][0]["value"]["ids"] == [first, third]
    assert scenario.recorded_decisions == {second: False}
    assert scenario.rounds == [0]
    end = scenario.run(resume(stale, {first: True, third: {"type": "reject", "message": "no"}}))
    assert scenario.rounds == [0, 1]
    assert scenario.recorded_decisions == {first: True, second: False, third: False}
    scenario.check_consistent(end)


def test_parts_that_two_processes_answer_at_the_same_moment_are_one_follow_up(
    new_scenario: NewApprovalScenario,
) -> None:
    in_parallel(
        lambda *case: answer_parts_at_once(new_scenario(*case)),
        [(store, durability) for store in STORES for durability in ("sync", "inherit")],
    )


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", STORES)
def test_parts_that_two_processes_answer_at_the_same_moment_are_one_follow_up_twenty_times(
    store: str, new_scenario: NewApprovalScenario
) -> None:
    in_parallel(
        lambda number: answer_parts_at_once(new_scenario(store, ("sync", "inherit")[number % 2])),
        [(number,) for number in range(RACES)],
    )


def answer_parts_at_once(scenario: ApprovalScenario) -> None:
    """Nobody is asked again about what somebody has decided.

    Whoever comes a little later answers an interrupt that is not there any more: that decides nothing.
    """
    scenario.behaviour |= {"approvals": THREE}
    asked = scenario.run(scenario.again)
    first, second, third = asked["asked"][0]["value"]["ids"]
    parts = ({first: True}, {second: False, third: True})
    runs = [scenario.start(resume(asked, part), held=True) for part in parts]
    for run in runs:
        run.go()
    for run in runs:
        run.end()
    recorded = scenario.recorded_decisions
    assert recorded in (parts[0], parts[1], parts[0] | parts[1])
    end = scenario.run(None)
    if end["status"] == "waits":
        rest = end["asked"][0]["value"]["ids"]
        assert {first, second, third} - recorded.keys() == set(rest)
        assert scenario.rounds == [0]
        end = scenario.run(everything(end, True))
    assert scenario.rounds == [0, 1]
    assert scenario.recorded_decisions.items() >= recorded.items()
    scenario.check_consistent(end)


WRONG: dict[str, Any] = {
    "an unknown id": {"call_r9_unknown": True},
    "an unknown id beside a known one": {"FIRST": True, "call_r9_unknown": True},
    "too few decisions": {"decisions": [{"type": "approve"}]},
    "too many decisions": {"decisions": [{"type": "approve"}] * 4},
    "a bare yes to three": True,
    "a word": "yes",
    "a number": 1,
    "nothing": {},
    "an unknown kind of decision": {"FIRST": {"type": "approved"}},
    "an edit": {"FIRST": {"type": "edit", "edited_action": {"name": "send0", "args": {"n": 9}}}},
    "a decision with more in it": {"FIRST": {"type": "approve", "args": {"n": 9}}},
    "one of three is malformed": {"decisions": [{"type": "approve"}, {"type": "approve"}, "approve"]},
    "the text of a decision": {"FIRST": "true"},
}


def test_an_answer_that_is_not_understood_approves_nothing_and_says_why(
    new_scenario: NewApprovalScenario,
) -> None:
    names = random.Random(f"{SEED} wrong").sample(sorted(WRONG), 4)
    in_parallel(
        lambda store, name: answer_wrongly(new_scenario(store), name),
        [(STORES[number % 2], name) for number, name in enumerate(names)],
    )


@pytest.mark.full
@pytest.mark.parametrize("store", STORES)
def test_no_answer_that_is_not_understood_approves_anything(
    store: str, new_scenario: NewApprovalScenario
) -> None:
    in_parallel(lambda name: answer_wrongly(new_scenario(store), name), [(name,) for name in WRONG])


def answer_wrongly(scenario: ApprovalScenario, name: str) -> None:
    scenario.behaviour |= {"approvals": THREE}
    asked = scenario.run(scenario.again)
    ids = asked["asked"][0]["value"]["ids"]
    wrong = WRONG[name]
    if isinstance(wrong, dict):
        wrong = {ids[0] if key == "FIRST" else key: value for key, value in wrong.items()}
    refused = scenario.run(resume(asked, wrong))
    assert refused["status"] == "waits"
    assert refused["asked"][0]["value"]["ids"] == ids
    assert "Nothing was approved" in refused["asked"][0]["value"]["error"]
    assert scenario.recorded_decisions == {}
    assert scenario.rounds == [0]
    end = scenario.run(everything(refused, True))
    assert scenario.rounds == [0, 1]
    scenario.check_consistent(end)


@pytest.mark.parametrize("store", SAMPLED_STORES)
def test_an_answer_that_comes_again_after_the_turn_went_on_approves_nothing_else(
    store: str, new_scenario: NewApprovalScenario
) -> None:
    scenario = new_scenario(store, approvals=[SEND], rounds=[{"approvals": [{**SEND, "name": "delete"}]}])
    asked = scenario.run(scenario.again)
    (first,) = asked["asked"][0]["value"]["ids"]
    second = scenario.run(resume(asked, {first: True}))
    again = scenario.run(resume(asked, {first: True}))
    by_id = scenario.run(resume(second, {first: True}))
    assert second["asked"] == again["asked"]
    assert "Not pending" in by_id["asked"][0]["value"]["error"]
    assert scenario.recorded_decisions == {first: True}
    assert scenario.rounds == [0, 1]


# ---- by policy


@pytest.mark.parametrize("store", SAMPLED_STORES)
def test_what_the_policy_allows_is_decided_without_asking_and_recorded_as_such(
    store: str, new_scenario: NewApprovalScenario
) -> None:
    scenario = new_scenario(store, approvals=[{**SEND, "name": "search"}, {**SEND, "name": "look"}])
    scenario.spec["options"] = {"require_approval": {"never": {"tool_names": ["search", "look"]}}}
    run = scenario.start(scenario.again)
    end = run.end()
    assert scenario.rounds == [0, 1]
    assert set(deciders(run).values()) == {"policy"}
    assert [outcome(effect) for effect in scenario.effects if effect.kind == "decision"] == [
        {"approve": True, "by": "policy"}
    ] * 2
    scenario.check_consistent(end)


@pytest.mark.parametrize(
    "killed_at",
    [
        "decision recorded",
        *(pytest.param(moment, marks=pytest.mark.full) for moment in ("decision claimed", "approve returns")),
    ],
)
def test_only_what_the_policy_does_not_allow_is_asked_also_after_a_kill(
    killed_at: str, new_scenario: NewApprovalScenario
) -> None:
    scenario = new_scenario("sqlite", approvals=[{**SEND, "name": "search"}, SEND])
    scenario.spec["options"] = {"require_approval": {"mail": {"never": {"tool_names": ["search"]}}}}
    assert scenario.start(scenario.again, die_at=[killed_at, 1]).wait() == -9
    asked = scenario.run(None)
    assert [action["name"] for action in asked["asked"][0]["value"]["action_requests"]] == ["send"]
    assert scenario.rounds == [0]
    run = scenario.start(everything(asked, False))
    end = run.end()
    assert sorted(deciders(run).values()) == ["person", "policy"]
    assert sorted(outcome(e)["by"] for e in scenario.effects if e.kind == "decision") == ["person", "policy"]
    assert scenario.rounds == [0, 1]
    scenario.check_consistent(end)


# ---- helpers


def everything(asked: Event, approve: bool) -> dict[str, Any]:
    """The same answer to everything that is asked."""
    decision = {"type": "approve"} if approve else {"type": "reject", "message": "no"}
    return resume(asked, dict.fromkeys(asked["asked"][0]["value"]["ids"], decision))


def resume(asked: Event, answer: Any) -> dict[str, Any]:
    """The input that answers this interrupt."""
    return {"answer": {asked["asked"][0]["id"]: answer}}


def decided(run: Process) -> bool:
    """Whether the process came to decide."""
    return any(event.get("name") == "approve returns" for event in run.events)


def conflicts(run: Process) -> list[str]:
    """What the process was told about decisions that were not applied."""
    return [event["stands"] for event in run.events if event.get("type") == "supervisor.decision_conflict"]


def said(approve: bool) -> str:
    return "approved" if approve else "refused"


def deciders(run: Process) -> dict[str, str]:
    """Who decided, by the id of the approval, as the thread has it."""
    event = run.wait_for("decided")
    assert event is not None
    found: dict[str, str] = event["by"]
    return found


def outcome(effect: Any) -> dict[str, Any]:
    """What was recorded."""
    assert effect.outcome is not None
    found: dict[str, Any] = effect.outcome
    return found
