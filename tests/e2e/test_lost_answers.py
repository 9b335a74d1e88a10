"""A POST whose answer is lost is never repeated on a guess; one that certainly did nothing is repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.forks import Event, ForkServer
from tests.e2e.stories import PACE, Store, Story, in_parallel
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

NewStory = Callable[..., Story]
Posts = Callable[[], int]


@pytest.fixture
def posts(service: LocalSupervisor) -> Posts:
    """Gives how many POSTs reached the service since the test began."""
    before = service.submissions()["posts"]
    return lambda: int(service.submissions()["posts"]) - before


def lost(new_story: NewStory, case: str, **options: Any) -> Story:
    story = new_story()
    story.behaviour = {**PACE, "create_errors": [LOST[case]], "create_errors_accept": True}
    story.spec = {"options": {"create_timeout_s": 2.0 if "too long" in case else 30.0, **options}}
    return story


def decide(end: Event, decision: Any) -> dict[str, Any]:
    (asked,) = end["asked"]
    assert asked["value"]["kind"] == "repeat_submission"
    assert [action["name"] for action in asked["value"]["action_requests"]] == ["resubmit_job"]
    return {"answer": {asked["id"]: decision}}


def for_each_loss(check: Callable[[str], None]) -> None:
    in_parallel(check, [(case,) for case in LOST])


def test_a_lost_answer_is_asked_about_and_sent_again_only_when_a_person_agrees(
    new_story: NewStory, posts: Posts
) -> None:
    def check(case: str) -> None:
        story = lost(new_story, case)
        assert story.run(story.again)["status"] == "waits"
        assert story.submissions == 1
        end = story.run(None)
        assert end["status"] == "waits", "resumed without an answer, it asks again"
        assert story.submissions == 1
        story.check_answered(story.run(decide(end, True)))
        assert story.submissions == 2

    for_each_loss(check)
    assert posts() == 2 * len(LOST)


def test_a_lost_answer_that_a_person_gives_up_is_an_error_and_the_question_may_be_asked_anew(
    new_story: NewStory, posts: Posts
) -> None:
    def check(case: str) -> None:
        story = lost(new_story, case)
        answer = decide(story.run(story.again), {"decisions": [{"type": "reject", "message": "not twice"}]})
        refused = story.run(answer)
        assert (refused["status"], refused["error"]) == ("error", "SubmissionUnknownError")
        assert "not twice" in refused["text"]
        assert story.run(None)["error"] == "SubmissionUnknownError", "a resume says the same again"
        assert story.submissions == 1
        story.check_answered(story.run(story.again), turns=2)
        assert story.submissions == 2

    for_each_loss(check)
    assert posts() == 2 * len(LOST)


def test_a_lost_answer_fails_at_once_where_the_graph_says_so(new_story: NewStory, posts: Posts) -> None:
    def check(case: str) -> None:
        story = lost(new_story, case, on_unknown_submission="fail")
        assert story.run(story.again)["error"] == "SubmissionUnknownError"
        assert story.submissions == 1

    for_each_loss(check)
    assert posts() == len(LOST)


def test_without_a_checkpointer_a_lost_answer_is_an_error(new_story: NewStory, posts: Posts) -> None:
    def check(case: str) -> None:
        story = lost(new_story, case)
        story.store = None
        assert story.run(story.again)["error"] == "SubmissionUnknownError"
        assert story.submissions == 1

    for_each_loss(check)
    assert posts() == len(LOST)


def test_a_lost_answer_is_sent_again_without_asking_where_the_graph_says_so(
    new_story: NewStory, posts: Posts
) -> None:
    def check(case: str) -> None:
        story = lost(new_story, case, on_unknown_submission="resubmit")
        story.check_answered(story.run(story.again))
        assert story.submissions == 2

    for_each_loss(check)
    assert posts() == 2 * len(LOST)


def test_resubmitting_without_asking_ends_after_three_attempts(new_story: NewStory, posts: Posts) -> None:
    story = new_story()
    story.behaviour["drop_create"] = "after"
    story.spec = {"options": {"on_unknown_submission": "resubmit"}}
    assert story.run(story.again)["error"] == "SubmissionUnknownError"
    assert (story.submissions, posts()) == (3, 3)


def test_a_failure_that_proves_nothing_is_asked_about_also_when_nothing_was_accepted(
    new_story: NewStory, posts: Posts
) -> None:
    def check(fault: Any) -> None:
        story = new_story()
        story.behaviour = {**PACE, "create_errors": [fault]}
        end = story.run(story.again)
        assert end["status"] == "waits"
        assert story.submissions == 0
        story.check_answered(story.run(decide(end, True)))
        assert story.submissions == 1

    in_parallel(check, [(fault,) for fault in NOT_ACCEPTED])
    assert posts() == 2 * len(NOT_ACCEPTED)


def test_a_service_that_is_overloaded_is_asked_again_and_accepts_one_job(
    new_story: NewStory, posts: Posts
) -> None:
    story = new_story()
    story.behaviour |= {"create_errors": [429, 429], "retry_after": 1}
    story.check_answered(story.run(story.again))
    assert (story.submissions, posts()) == (1, 3)


@pytest.fixture
def story_of_own_service(forks: ForkServer, tmp_path: Path) -> Iterator[Story]:
    """A story whose service nobody else talks to, so that it can be killed."""
    with LocalSupervisor(tmp_path / "service") as service:
        yield Story(forks, service, Store("sqlite", str(tmp_path / "thread.sqlite")))


def test_a_refused_connection_is_tried_again_and_one_job_is_accepted(story_of_own_service: Story) -> None:
    story = story_of_own_service
    run = story.start(story.again, login_s=0.5)
    assert run.wait_for("client built")
    story.service.kill()
    assert run.wait_for("posting", 2), "the first POST was refused"
    story.service.restart()
    story.check_answered(run.end())
    assert (story.submissions, story.service.submissions()["posts"]) == (1, 1)


@pytest.mark.full
def test_a_service_that_stays_away_is_an_error_and_a_resume_submits_once(story_of_own_service: Story) -> None:
    story = story_of_own_service
    run = story.start(story.again, login_s=0.5)
    assert run.wait_for("client built")
    story.service.kill()
    assert run.end()["error"] == "ServiceUnavailableError"
    story.service.restart()
    story.check_answered(story.run(None))
    assert (story.submissions, story.service.submissions()["posts"]) == (1, 1)
