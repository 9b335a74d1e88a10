"""What every service must bear, whatever it speaks: the tests of a service inherit it."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.service_runner import End
from tests.support.service_stories import Story

NewStory = Callable[[], Story]


class DurableJobs:
    """Tests of one service; a class that inherits them gives the fixture ``story``."""

    def test_a_second_turn_knows_the_first(self, story: Story) -> None:
        assert story.ask("Say hello").text == "hello. Turn 1."
        end = story.ask("Say goodbye")
        assert (end.status, end.text) == ("answered", "goodbye. Turn 2.")
        assert len(story.jobs) == 2

    def test_a_tool_that_needs_no_approval_runs_once(self, story: Story) -> None:
        story.require_approval = "never"
        end = story.ask("Publish news")
        assert (end.status, end.text) == ("answered", "published news. Turn 1.")
        assert story.effects == ["publish news"]
        assert len(story.jobs) == 1

    def test_a_function_of_the_client_runs_once_and_its_result_arrives(self, story: Story) -> None:
        end = story.ask("Look up prices")
        assert (end.status, end.text) == ("answered", "found prices. Turn 1.")
        assert story.functions == ["look up prices"]
        assert len(story.jobs) == 2

    def test_a_run_killed_while_it_polls_goes_on_with_the_same_job(self, story: Story) -> None:
        run = story.start_asking(f"Wait at {story.gate}, then say hello")
        story.wait_at_gate()
        run.kill()
        story.open_gate()
        end = story.resume()
        assert (end.status, end.text) == ("answered", "hello. Turn 1.")
        assert len(story.jobs) == len(story.proxy.creates) == 1

    def test_a_run_killed_before_its_post_is_answered_never_makes_a_second_job(self, story: Story) -> None:
        story.proxy.next_create = "answer held"
        run = story.start_asking("Say hello")
        story.proxy.wait_until_held()
        run.kill()
        story.proxy.let_go()
        assert_settled_or_asked(story, story.resume())

    def test_a_lost_answer_never_makes_a_second_job(self, story: Story) -> None:
        story.proxy.next_create = "answer lost"
        assert_settled_or_asked(story, story.ask("Say hello"))

    def test_a_post_that_never_arrived_makes_one_job_once_it_is_settled_or_allowed(
        self, story: Story
    ) -> None:
        story.proxy.next_create = "never arrives"
        end = story.ask("Say hello")
        if end.status == "waits":
            assert story.jobs == []
            end = story.answer(True)
        assert (end.status, end.text) == ("answered", "hello. Turn 1.")
        assert len(story.jobs) == 1

    def test_a_poll_whose_answer_is_lost_is_repeated(self, story: Story) -> None:
        story.proxy.next_poll = "answer lost"
        assert story.ask("Say hello").text == "hello. Turn 1."
        assert len(story.jobs) == 1

    def test_a_new_question_cancels_the_job_where_it_is_told_to(self, story: Story) -> None:
        run = story.start_asking(f"Wait at {story.gate}, then say hello")
        story.wait_at_gate()
        run.kill()
        (first,) = story.jobs
        end = story.ask("Say goodbye", on_busy="cancel")
        assert (end.status, end.text) == ("answered", "goodbye. Turn 2.")
        assert story.status_at_service(first) == "cancelled"
        assert len(story.jobs) == 2


def assert_settled_or_asked(story: Story, end: End) -> None:
    """One job, whatever was lost: found again, or a person is asked and says no."""
    assert len(story.jobs) == 1
    if end.status == "answered":
        assert end.text == "hello. Turn 1."
        return
    (asked,) = end.asked
    assert (end.status, asked["kind"]) == ("waits", "repeat_submission")
    end = story.answer(False)
    assert (end.status, end.error) == ("error", "SubmissionUnknownError")
    assert len(story.jobs) == 1
