"""The four cases of one question asked again: three of them are one job, the last one is a new question."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.stories import PACE, Story, in_parallel

STORES = [(store, durability) for store in ("sqlite", "postgres") for durability in ("sync", "inherit")]

NewStory = Callable[..., Story]


def killed_at_0_ms(story: Story) -> None:
    run = story.start(story.again, die_at=["poll begins", 1])
    assert run.wait() == -9
    assert story.submissions == 1


def test_killed_at_0_ms_and_resumed_it_polls_the_same_job(new_story: NewStory) -> None:
    def check(store: str, durability: str) -> None:
        story = new_story(store, durability)
        killed_at_0_ms(story)
        end = story.run(None)
        if durability == "inherit" and end["status"] == "error":
            assert end["error"] == "NothingToResumeError"
            assert "Ask the question again" in end["text"]
            end = story.run(story.again)
        story.check_answered(end)
        assert story.submissions == 1

    in_parallel(check, STORES)


def test_killed_at_0_ms_and_asked_again_it_polls_the_same_job(new_story: NewStory) -> None:
    def check(store: str, durability: str) -> None:
        story = new_story(store, durability)
        killed_at_0_ms(story)
        story.check_answered(story.run(story.again))
        assert story.submissions == 1

    in_parallel(check, STORES)


def test_asked_again_while_it_runs_it_polls_the_same_job(new_story: NewStory) -> None:
    def check(store: str, durability: str) -> None:
        story = new_story(store, durability)
        story.behaviour = {**PACE, "duration_s": 3.0}  # The second one begins while it runs, however slowly.
        first = story.start(story.again)
        assert first.wait_for("polled")
        second = story.run(story.again)
        assert first.end()["status"] == second["status"] == "answered"
        story.check_answered(story.run(None))
        assert story.submissions == 1

    in_parallel(check, STORES)


def test_asked_again_after_the_answer_it_is_a_new_question(new_story: NewStory) -> None:
    def check(store: str, durability: str) -> None:
        story = new_story(store, durability)
        story.check_answered(story.run(story.again))
        story.check_answered(story.run(story.again), turns=2)
        assert story.submissions == 2

    in_parallel(check, STORES)
