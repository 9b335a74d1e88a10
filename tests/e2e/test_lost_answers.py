"""A POST whose answer is lost is never repeated on a guess; one that certainly did nothing is repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.forked_processes import Event, ForkServer
from tests.e2e.scenario import PACE, Scenario, Store, in_parallel
from tests.support.local_supervisor_process import LocalSupervisor

LOST = {
    "the connection breaks after the job was accepted": "drop",
    "503 after the job was accepted": 503,
    "garbage after the job was accepted": "garbage",
    "the answer takes too long": "timeout:10",
}
"""What happens to the first POST after its job was accepted. The next POST is answered."""
NOT_ACCEPTED = ("drop", 502, 409, "garbage")
"""What happens to the first POST instead of accepting it."""

NewScenario = Callable[..., Scenario]
Posts = Callable[[], int]


@pytest.fixture
def posts(service: LocalSupervisor) -> Posts:
    """Gives how many POSTs reached the service since the test began."""
    before = service.submissions()["posts"]
    return lambda: int(service.submissions()["posts"]) - before


def lost(new_scenario: NewScenario, case: str, **options: Any) -> Scenario:
    scenario = new_scenario()
    scenario.behaviour = {**PACE, "create_errors": [LOST[case]], "create_errors_accept": True}
    scenario.spec = {"options": {"create_timeout_s": 2.0 if "too long" in case else 30.0, **options}}
    return scenario


def decide(end: Event, decision: Any) -> dict[str, Any]:
    (asked,) = end["asked"]
    assert asked["value"]["kind"] == "repeat_submission"
    assert [action["name"] for action in asked["value"]["action_requests"]] == ["resubmit_job"]
    return {"answer": {asked["id"]: decision}}


def for_each_loss(check: Callable[[str], None]) -> None:
    in_parallel(check, [(case,) for case in LOST])


def test_a_lost_answer_is_asked_about_and_sent_again_only_when_a_person_agrees(
    new_scenario: NewScenario, posts: Posts
) -> None:
    def check(case: str) -> None:
        scenario = lost(new_scenario, case)
        assert scenario.run(scenario.again)["status"] == "waits"
        assert scenario.submissions == 1
        end = scenario.run(None)
        assert end["status"] == "waits", "resumed without an answer, it asks again"
        assert scenario.submissions == 1
        scenario.check_answered(scenario.run(decide(end, True)))
        assert scenario.submissions == 2

    for_each_loss(check)
    assert posts() == 2 * len(LOST)


def test_a_lost_answer_that_a_person_gives_up_is_an_error_and_the_question_may_be_asked_anew(
    new_scenario: NewScenario, posts: Posts
) -> None:
    def check(case: str) -> None:
        scenario = lost(new_scenario, case)
        answer = decide(
            scenario.run(scenario.again), {"decisions": [{"type": "reject", "message": "not twice"}]}
        )
        refused = scenario.run(answer)
        assert (refused["status"], refused["error"]) == ("error", "SubmissionUnknownError")
        assert "not twice" in refused["text"]
        assert scenario.run(None)["error"] == "SubmissionUnknownError", "a resume says the same again"
        assert scenario.submissions == 1
        scenario.check_answered(scenario.run(scenario.again), turns=2)
        assert scenario.submissions == 2

    for_each_loss(check)
    assert posts() == 2 * len(LOST)


def test_a_lost_answer_fails_at_once_where_the_graph_says_so(new_scenario: NewScenario, posts: Posts) -> None:
    def check(case: str) -> None:
        scenario = lost(new_scenario, case, on_unknown_submission="fail")
        assert scenario.run(scenario.again)["error"] == "SubmissionUnknownError"
        assert scenario.submissions == 1

    for_each_loss(check)
    assert posts() == len(LOST)


def test_without_a_checkpointer_a_lost_answer_is_an_error(new_scenario: NewScenario, posts: Posts) -> None:
    def check(case: str) -> None:
        scenario = lost(new_scenario, case)
        scenario.store = None
        assert scenario.run(scenario.again)["error"] == "SubmissionUnknownError"
        assert scenario.submissions == 1

    for_each_loss(check)
    assert posts() == len(LOST)


def test_a_lost_answer_is_sent_again_without_asking_where_the_graph_says_so(
    new_scenario: NewScenario, posts: Posts
) -> None:
    def check(case: str) -> None:
        scenario = lost(new_scenario, case, on_unknown_submission="resubmit")
        scenario.check_answered(scenario.run(scenario.again))
        assert scenario.submissions == 2

    for_each_loss(check)
    assert posts() == 2 * len(LOST)


def test_resubmitting_without_asking_ends_after_three_attempts(
    new_scenario: NewScenario, posts: Posts
) -> None:
    scenario = new_scenario()
    scenario.behaviour["drop_create"] = "after"
    scenario.spec = {"options": {"on_unknown_submission": "resubmit"}}
    assert scenario.run(scenario.again)["error"] == "SubmissionUnknownError"
    assert (scenario.submissions, posts()) == (3, 3)


def test_a_failure_that_proves_nothing_is_asked_about_also_when_nothing_was_accepted(
    new_scenario: NewScenario, posts: Posts
) -> None:
    def check(fault: Any) -> None:
        scenario = new_scenario()
        scenario.behaviour = {**PACE, "create_errors": [fault]}
        end = scenario.run(scenario.again)
        assert end["status"] == "waits"
        assert scenario.submissions == 0
        scenario.check_answered(scenario.run(decide(end, True)))
        assert scenario.submissions == 1

    in_parallel(check, [(fault,) for fault in NOT_ACCEPTED])
    assert posts() == 2 * len(NOT_ACCEPTED)


def test_a_service_that_is_overloaded_is_asked_again_and_accepts_one_job(
    new_scenario: NewScenario, posts: Posts
) -> None:
    scenario = new_scenario()
    scenario.behaviour |= {"create_errors": [429, 429], "retry_after": 1}
    scenario.check_answered(scenario.run(scenario.again))
    assert (scenario.submissions, posts()) == (1, 3)


@pytest.fixture
def scenario_with_own_service(fork_server: ForkServer, tmp_path: Path) -> Iterator[Scenario]:
    """A scenario whose service nobody else talks to, so that it can be killed."""
    with LocalSupervisor(tmp_path / "service") as service:
        yield Scenario(fork_server, service, Store("sqlite", str(tmp_path / "thread.sqlite")))


def test_a_refused_connection_is_tried_again_and_one_job_is_accepted(
    scenario_with_own_service: Scenario,
) -> None:
    scenario = scenario_with_own_service
    run = scenario.start(scenario.again, login_s=0.5)
    assert run.wait_for("client built")
    scenario.service.kill()
    assert run.wait_for("posting", 2), "the first POST was refused"
    scenario.service.restart()
    scenario.check_answered(run.end())
    assert (scenario.submissions, scenario.service.submissions()["posts"]) == (1, 1)


@pytest.mark.full
def test_a_service_that_stays_away_is_an_error_and_a_resume_submits_once(
    scenario_with_own_service: Scenario,
) -> None:
    scenario = scenario_with_own_service
    run = scenario.start(scenario.again, login_s=0.5)
    assert run.wait_for("client built")
    scenario.service.kill()
    assert run.end()["error"] == "ServiceUnavailableError"
    scenario.service.restart()
    scenario.check_answered(scenario.run(None))
    assert (scenario.submissions, scenario.service.submissions()["posts"]) == (1, 1)
