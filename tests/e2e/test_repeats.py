"""The four cases of one question asked again: three of them are one job, the last one is a new question."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.scenario import PACE, Scenario, in_parallel

STORES = [(store, durability) for store in ("sqlite", "postgres") for durability in ("sync", "inherit")]

NewScenario = Callable[..., Scenario]


def killed_at_0_ms(scenario: Scenario) -> None:
    run = scenario.start(scenario.again, die_at=["poll begins", 1])
    assert run.wait() == -9
    assert scenario.submissions == 1


def test_killed_at_0_ms_and_resumed_it_polls_the_same_job(new_scenario: NewScenario) -> None:
    def check(store: str, durability: str) -> None:
        scenario = new_scenario(store, durability)
        killed_at_0_ms(scenario)
        end = scenario.run(None)
        if durability == "inherit" and end["status"] == "error":
            assert end["error"] == "NothingToResumeError"
            assert "Ask the question again" in end["text"]
            end = scenario.run(scenario.again)
        scenario.check_answered(end)
        assert scenario.submissions == 1

    in_parallel(check, STORES)


def test_killed_at_0_ms_and_asked_again_it_polls_the_same_job(new_scenario: NewScenario) -> None:
    def check(store: str, durability: str) -> None:
        scenario = new_scenario(store, durability)
        killed_at_0_ms(scenario)
        scenario.check_answered(scenario.run(scenario.again))
        assert scenario.submissions == 1

    in_parallel(check, STORES)


def test_asked_again_while_it_runs_it_polls_the_same_job(new_scenario: NewScenario) -> None:
    def check(store: str, durability: str) -> None:
        scenario = new_scenario(store, durability)
        scenario.behaviour = {
            **PACE,
            "duration_s": 3.0,
        }  # The second one begins while it runs, however slowly.
        first = scenario.start(scenario.again)
        assert first.wait_for("polled")
        second = scenario.run(scenario.again)
        assert first.end()["status"] == second["status"] == "answered"
        scenario.check_answered(scenario.run(None))
        assert scenario.submissions == 1

    in_parallel(check, STORES)


def test_asked_again_after_the_answer_it_is_a_new_question(new_scenario: NewScenario) -> None:
    def check(store: str, durability: str) -> None:
        scenario = new_scenario(store, durability)
        scenario.check_answered(scenario.run(scenario.again))
        scenario.check_answered(scenario.run(scenario.again), turns=2)
        assert scenario.submissions == 2

    in_parallel(check, STORES)
