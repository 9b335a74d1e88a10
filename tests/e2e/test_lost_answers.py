"""A POST whose answer is lost is never repeated on a guess; one that certainly did nothing is repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.forks import Event, ForkServer
from tests.e2e.stories import PACE, Store, Story
from tests.local_supervisor_process import LocalSupervisor

LOST: dict[str, dict[str, Any]] = {
    "the connection breaks after the job was accepted": {"create_errors": ["drop"], "create_errors_accept": True},
    "503 after the job was accepted": {"create_errors": [503], "create_errors_accept": True},
    "garbage after the job was accepted": {"create_errors": ["garbage"], "create_errors_accept": True},
    "the answer takes too long": {"create_errors": ["timeout:3"], "create_errors_accept": True},
}
"""What happens to the first POST; the next one is accepted and answered."""

Posts = Callable[[], int]


@pytest.fixture(params=list(LOST))
def story(request: pytest.FixtureRequest, forks: ForkServer, service: LocalSupervisor, tmp_path: Path) -> Story:
    return Story(
        forks,
        service,
        Store("sqlite", str(tmp_path / "thread.sqlite")),
        behaviour={**PACE, **LOST[request.param]},
        spec={"options": {"create_timeout_s": 0.5}},
    )


@pytest.fixture
def posts(service: LocalSupervisor) -> Iterator[Posts]:
    """Gives how many POSTs reached the service since the test began."""
    before = service.submissions()["posts"]
    yield lambda: int(service.submissions()["posts"]) - before


def decide(end: Event, decision: Any) -> dict[str, Any]:
    (asked,) = end["asked"]
    assert asked["value"]["kind"] == "repeat_submission"
    assert [action["name"] for action in asked["value"]["action_requests"]] == ["resubmit_job"]
    return {"answer": {asked["id"]: decision}}


def test_a_lost_answer_is_asked_about_and_sent_again_only_when_a_person_agrees(story: Story, posts: Posts) -> None:
    end = story.run(story.again)
    assert end["status"] == "waits"
    assert (story.submissions, posts()) == (1, 1)
    assert story.run(None)["status"] == "waits", "resumed without an answer, it asks again"
    assert (story.submissions, posts()) == (1, 1)
    story.check_answered(story.run(decide(end, True)))
    assert (story.submissions, posts()) == (2, 2)


def test_a_lost_answer_that_a_person_gives_up_is_an_error_and_the_question_may_be_asked_anew(
    story: Story, posts: Posts
) -> None:
    end = story.run(story.again)
    refused = story.run(decide(end, {"decisions": [{"type": "reject", "message": "not twice"}]}))
    assert (refused["status"], refused["error"]) == ("error", "SubmissionUnknownError")
    assert "not twice" in refused["text"]
    assert story.run(None)["error"] == "SubmissionUnknownError", "a resume says the same again"
    assert (story.submissions, posts()) == (1, 1)
    story.check_answered(story.run(story.again), turns=2)
    assert (story.submissions, posts()) == (2, 2)


def test_a_lost_answer_fails_at_once_where_the_graph_says_so(story: Story, posts: Posts) -> None:
    story.spec["options"]["on_unknown_submission"] = "fail"
    assert story.run(story.again)["error"] == "SubmissionUnknownError"
    assert (story.submissions, posts()) == (1, 1)


def test_a_lost_answer_is_sent_again_without_asking_where_the_graph_says_so(story: Story, posts: Posts) -> None:
    story.spec["options"]["on_unknown_submission"] = "resubmit"
    story.check_answered(story.run(story.again))
    assert (story.submissions, posts()) == (2, 2)


def test_without_a_checkpointer_a_lost_answer_is_an_error(story: Story, posts: Posts) -> None:
    story.store = None
    assert story.run(story.again)["error"] == "SubmissionUnknownError"
    assert (story.submissions, posts()) == (1, 1)


def test_resubmitting_without_asking_ends_after_three_attempts(
    forks: ForkServer, service: LocalSupervisor, tmp_path: Path, posts: Posts
) -> None:
    story = Story(forks, service, Store("sqlite", str(tmp_path / "thread.sqlite")))
    story.behaviour["drop_create"] = "after"
    story.spec = {"options": {"on_unknown_submission": "resubmit"}}
    assert story.run(story.again)["error"] == "SubmissionUnknownError"
    assert (story.submissions, posts()) == (3, 3)


@pytest.mark.parametrize("fault", ["drop", 500, 502, 503, 504, 408, 409, "garbage"])
def test_a_failure_that_proves_nothing_is_asked_about_also_when_nothing_was_accepted(
    fault: Any, forks: ForkServer, service: LocalSupervisor, tmp_path: Path, posts: Posts
) -> None:
    story = Story(forks, service, Store("sqlite", str(tmp_path / "thread.sqlite")))
    story.behaviour["create_errors"] = [fault]
    end = story.run(story.again)
    assert end["status"] == "waits"
    assert (story.submissions, posts()) == (0, 1)
    story.check_answered(story.run(decide(end, True)))
    assert (story.submissions, posts()) == (1, 2)


def test_a_service_that_is_overloaded_is_asked_again_and_accepts_one_job(
    forks: ForkServer, service: LocalSupervisor, tmp_path: Path, posts: Posts
) -> None:
    story = Story(forks, service, Store("sqlite", str(tmp_path / "thread.sqlite")))
    story.behaviour |= {"create_errors": [429, 429], "retry_after": 1}
    story.check_answered(story.run(story.again))
    assert (story.submissions, posts()) == (1, 3)


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[LocalSupervisor]:
    with LocalSupervisor(tmp_path / "service") as local:
        yield local


def test_a_refused_connection_is_tried_again_and_one_job_is_accepted(
    forks: ForkServer, own_service: LocalSupervisor, tmp_path: Path
) -> None:
    story = Story(forks, own_service, Store("sqlite", str(tmp_path / "thread.sqlite")))
    run = story.start(story.again, login_s=0.5)
    assert run.wait_for("client built")
    own_service.kill()
    assert run.wait_for("posting", 2), "the first POST was refused"
    own_service.restart()
    story.check_answered(run.end())
    assert (story.submissions, own_service.submissions()["posts"]) == (1, 1)


@pytest.mark.full
def test_a_service_that_stays_away_is_an_error_and_a_resume_submits_once(
    forks: ForkServer, own_service: LocalSupervisor, tmp_path: Path
) -> None:
    story = Story(forks, own_service, Store("sqlite", str(tmp_path / "thread.sqlite")))
    run = story.start(story.again, login_s=0.5)
    assert run.wait_for("client built")
    own_service.kill()
    assert run.end()["error"] == "ServiceUnavailableError"
    own_service.restart()
    story.check_answered(story.run(None))
    assert (story.submissions, own_service.submissions()["posts"]) == (1, 1)
