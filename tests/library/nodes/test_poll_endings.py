"""How a job ends: with an answer, with an error, at its deadline, or not found any more."""

from __future__ import annotations

from typing import Any

import pytest

from databricks_supervisor.errors import (
    JobCancelledError,
    JobError,
    JobFailedError,
    JobIncompleteError,
    JobNotFoundError,
    JobTimeoutError,
    RequestRejectedError,
    ServiceRetiredError,
)
from tests.support.fake_time import WEEK_S
from tests.support.graph_harness import ANSWERED, DONE, RUNNING, harness
from tests.support.scripted_service import Answer, message, refusal, response

# ---- how a job ends


FAILED: list[tuple[str, Answer, type[Exception], str]] = [
    ("failed", response("failed", error={"code": "E", "message": "it broke"}), JobFailedError, "E: it broke."),
    ("failed without a word", response("failed", error=None), JobFailedError, "no explanation was given."),
    ("failed in words", response("failed", error="it broke!"), JobFailedError, "failed: it broke!"),
    ("cancelled", response("cancelled"), JobCancelledError, "was cancelled."),
    (
        "incomplete",
        response("incomplete", incomplete_details={"reason": "max_output_tokens"}),
        JobIncompleteError,
        "ended incomplete (max_output_tokens) before it delivered anything.",
    ),
    ("incomplete without a reason", response("incomplete"), JobIncompleteError, "(no reason given)"),
    (
        "an error inside completed",
        response("completed", error={"error_code": "TIMEOUT", "message": "too slow"}),
        JobFailedError,
        "TIMEOUT: too slow.",
    ),
    ("nothing", response("completed"), JobFailedError, "completed without any output."),
    (
        "no login",
        response(
            "completed",
            error={"message": "Credential for user identity a is not found for the connection web. Please login "
            "first to the connection by visiting https://workspace/web"},
        ),
        JobFailedError,
        "Log in to the connection at the address above",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "said"), [f[1:] for f in FAILED], ids=[f[0] for f in FAILED])
async def test_a_job_that_ends_without_its_answer_is_an_error_that_says_so(
    answer: Answer, kind: type[Any], said: str
) -> None:
    async with harness(retrieves=[RUNNING, answer]) as h:
        with pytest.raises(kind) as raised:
            await h.ask()
        assert (await h.turn()).ended_at is not None
        assert await h.texts() == ["How much?"]
    assert said in str(raised.value)
    assert "resp_1" in str(raised.value)
    assert "Send the message again to start a new job" in str(raised.value)
    assert raised.value.response_id == "resp_1"
    assert raised.value.status == answer.body["status"]


@pytest.mark.parametrize(("answer", "kind", "said"), [f[1:] for f in FAILED], ids=[f[0] for f in FAILED])
async def test_a_job_that_had_ended_at_submit_is_the_same_error(
    answer: Answer, kind: type[Exception], said: str
) -> None:
    async with harness([answer], [answer]) as h:
        with pytest.raises(kind):
            await h.ask()
    assert (len(h.service.posts), len(h.service.gets)) == (1, 1)


async def test_after_a_failed_job_the_same_question_is_a_new_job() -> None:
    creates = [response("queued"), response("queued", id="resp_2")]
    retrieves = [response("failed"), response("completed", message("42"), id="resp_2")]
    async with harness(creates, retrieves) as h:
        with pytest.raises(JobFailedError):
            await h.ask()
        await h.ask()
        assert await h.texts() == ["How much?", "How much?", "42"]
    assert len(h.service.posts) == 2


async def test_a_failed_job_says_the_same_when_the_thread_is_resumed() -> None:
    async with harness(retrieves=[response("failed", error="it broke")]) as h:
        for go in (h.ask, h.resume, h.resume):
            with pytest.raises(JobFailedError, match="it broke"):
                await go()
    assert len(h.service.gets) == 1


async def test_what_a_failed_job_delivered_is_kept() -> None:
    retrieves = [
        response("in_progress", message("one")),
        response("failed", message("one"), message("two", "m2")),
    ]
    async with harness(retrieves=retrieves) as h:
        with pytest.raises(JobFailedError, match="What it delivered before is in the thread"):
            await h.ask()
        assert await h.texts() == ["How much?", "one", "two"]


async def test_an_incomplete_job_that_delivered_something_is_a_partial_answer() -> None:
    partial = message("forty", "m1", "incomplete")
    async with harness(retrieves=[response("incomplete", partial)]) as h:
        await h.ask()
        assert await h.texts() == ["How much?", "forty"]
        assert (await h.job())["status"] == "incomplete"
        assert (await h.turn()).ended_at is not None


async def test_a_status_that_nobody_has_heard_of_is_waited_for() -> None:
    async with harness(retrieves=[response("thinking"), response("dreaming"), DONE]) as h:
        await h.ask()
        assert await h.texts() == ANSWERED


# ---- the deadline


async def test_a_job_that_is_not_done_at_its_deadline_is_given_up() -> None:
    async with harness(retrieves=[response("thinking")], polling=10, deadline_s=60) as h:
        with pytest.raises(
            JobTimeoutError, match=r"still 'thinking' after 1 minutes.*look once more"
        ) as raised:
            await h.ask()
        assert (raised.value.response_id, raised.value.status) == ("resp_1", "thinking")
        assert 60 < h.time.elapsed <= 80
        assert (await h.job())["failure"]["kind"] == "JobTimeoutError"
        assert (await h.turn()).ended_at is not None


async def test_the_default_deadline_is_a_little_over_half_an_hour() -> None:
    async with harness(retrieves=[RUNNING]) as h:
        with pytest.raises(JobTimeoutError):
            await h.ask()
    assert 32 * 60 < h.time.elapsed < 33 * 60


async def test_a_job_that_was_given_up_is_looked_at_once_more_on_resume() -> None:
    async with harness(retrieves=[RUNNING], deadline_s=60) as h:
        with pytest.raises(JobTimeoutError):
            await h.ask()
        polls = len(h.service.gets)
        with pytest.raises(JobTimeoutError):
            await h.resume()
        assert len(h.service.gets) == polls + 1
        h.service.retrieves[:] = [DONE]
        await h.resume()
        assert await h.texts() == ANSWERED
        assert (await h.job())["failure"] is None
    assert len(h.service.posts) == 1


async def test_the_same_question_after_the_deadline_is_a_new_job() -> None:
    creates = [response("queued"), response("queued", id="resp_2")]
    async with harness(creates, [RUNNING], deadline_s=60) as h:
        with pytest.raises(JobTimeoutError):
            await h.ask()
        h.service.retrieves[:] = [response("completed", message("42"), id="resp_2")]
        await h.ask()
        assert (await h.texts())[-1] == "42"
    assert len(h.service.posts) == 2


async def test_a_thread_that_is_resumed_a_week_later_asks_first_and_delivers() -> None:
    async with harness(retrieves=[RUNNING]) as h:
        await h.ask_and_cancel()
        h.time.forward(WEEK_S)
        h.service.retrieves[:] = [DONE]
        await h.resume()
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 1


async def test_items_that_came_after_the_deadline_are_delivered_before_it_counts() -> None:
    async with harness(retrieves=[RUNNING]) as h:
        await h.ask_and_cancel()
        h.time.forward(WEEK_S)
        h.service.retrieves[:] = [response("in_progress", message("one"))]
        with pytest.raises(JobTimeoutError):
            await h.resume()
        assert await h.texts() == ["How much?", "one"]


async def test_the_deadline_does_not_count_while_the_service_cannot_be_asked() -> None:
    async with harness(retrieves=[refusal(503)] * 8 + [DONE], deadline_s=10) as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    assert h.time.elapsed > 60


# ---- what is final


async def test_a_job_that_is_not_found_yet_may_be_found_in_a_moment() -> None:
    async with harness(retrieves=[refusal(404)] * 5 + [DONE]) as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    assert 5 <= h.time.elapsed <= 10


async def test_a_job_that_stays_lost_is_given_up() -> None:
    async with harness(retrieves=[refusal(404)], not_found_grace_s=10) as h:
        with pytest.raises(
            JobNotFoundError, match=r"Job resp_1 not found \(404\): it expired or was deleted"
        ):
            await h.ask()
        assert 10 <= h.time.elapsed <= 12
        assert (await h.turn()).ended_at is not None
        for go in (h.resume, h.resume):
            with pytest.raises(JobNotFoundError):
                await go()
    assert len(h.service.gets) <= 12


async def test_without_a_grace_a_lost_job_is_given_up_at_once() -> None:
    async with harness(retrieves=[refusal(404)], not_found_grace_s=0) as h:
        with pytest.raises(JobNotFoundError):
            await h.ask()
    assert len(h.service.gets) == 1


async def test_what_a_lost_job_had_delivered_is_kept() -> None:
    async with harness(retrieves=[response("in_progress", message("one")), refusal(404)]) as h:
        with pytest.raises(JobNotFoundError, match="still has everything it delivered"):
            await h.ask()
        assert await h.texts() == ["How much?", "one"]


@pytest.mark.parametrize("status", [410, 501])
async def test_a_service_that_retired_while_the_job_ran_names_the_alternatives(status: int) -> None:
    async with harness(retrieves=[RUNNING, refusal(status, "The Supervisor API has ended")]) as h:
        with pytest.raises(ServiceRetiredError, match="an agent on Databricks Apps, OpenAI") as raised:
            await h.ask()
        assert raised.value.status_code == status
        assert (await h.turn()).ended_at is not None
    assert len(h.service.gets) == 2


async def test_any_other_refusal_ends_the_turn() -> None:
    async with harness(retrieves=[refusal(400, "no such thing")]) as h:
        with pytest.raises(RequestRejectedError, match="no such thing"):
            await h.ask()
        assert (await h.turn()).ended_at is not None


@pytest.mark.parametrize(("status", "kind"), [("canceled", JobCancelledError), ("expired", JobFailedError)])
async def test_another_word_for_a_bad_end_is_not_taken_for_an_answer(
    status: str, kind: type[JobError]
) -> None:
    async with harness(retrieves=[response(status, message("Half of it"))]) as h:
        with pytest.raises(kind):
            await h.ask()


async def test_other_words_for_a_good_end_are_answers() -> None:
    retrieves = [response("running"), response("succeeded", message("42"))]
    async with harness([response("pending")], retrieves) as h:
        await h.ask()
        assert (await h.texts())[-1] == "42"
