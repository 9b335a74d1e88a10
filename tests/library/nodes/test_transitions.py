"""How a turn ends without its answer: recorded in the thread first, then raised or said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from databricks_supervisor.errors import (
    JobCancelledError,
    JobError,
    JobFailedError,
    JobIncompleteError,
    JobNotFoundError,
    JobTimeoutError,
    RequestRejectedError,
    SubmissionUnknownError,
    SupervisorError,
)
from databricks_supervisor.nodes.transitions import failure_of_status
from tests.support.graph_harness import CONFIG, GraphHarness, harness
from tests.support.scripted_service import API_KEY, Answer, message, refusal, response

# Each way to end: what the service answers to creates and retrieves, and the error that it is.
ENDINGS: dict[str, tuple[list[Answer], list[Answer], type[SupervisorError]]] = {
    "rejected": ([refusal(400, "bad model")], [], RequestRejectedError),
    "unknown": ([Answer(drop="unanswered")], [], SubmissionUnknownError),
    "failed": ([response("queued")], [response("failed", error="it broke")], JobFailedError),
    "cancelled": ([response("queued")], [response("cancelled")], JobCancelledError),
    "incomplete": ([response("queued")], [response("incomplete")], JobIncompleteError),
    "lost": ([response("queued")], [refusal(404)], JobNotFoundError),
    "too slow": ([response("queued")], [response("in_progress")], JobTimeoutError),
}
endings = pytest.mark.parametrize(("creates", "retrieves", "kind"), ENDINGS.values(), ids=ENDINGS.keys())
SETTINGS: dict[str, Any] = {"on_unknown_submission": "fail", "deadline_s": 5}


async def works_again(h: GraphHarness) -> None:
    """Another question gets its answer."""
    h.service.creates[:] = [response("queued", id="resp_2")]
    h.service.retrieves[:] = [response("completed", message("fine", "msg_2"), id="resp_2")]
    await h.ask("Another question")
    assert (await h.texts())[-1] == "fine"
    assert await h.waits_at() == ()


async def test_why_an_answer_is_incomplete_is_kept_without_credentials() -> None:
    details = {"reason": "max_output_tokens for dapi0123456789abcdef0123456789abcdef"}
    cut = response("incomplete", message("Half of it"), incomplete_details=details)
    async with harness([response("queued")], [cut]) as h:
        await h.ask()
        kept = (await h.values())["job"]["incomplete"]
    assert "max_output_tokens" in kept
    assert "dapi" not in kept


# ---- raise


@endings
async def test_an_error_is_in_the_state_before_it_is_raised(
    creates: list[Answer], retrieves: list[Answer], kind: type[SupervisorError]
) -> None:
    async with harness(creates, retrieves, **SETTINGS) as h:
        with pytest.raises(kind) as raised:
            await h.ask()
        failure = (await h.job())["failure"]
        assert (failure["kind"], failure["message"]) == (kind.__name__, str(raised.value))
        assert failure["said"] is False
        assert (await h.turn()).ended_at is not None
        assert await h.texts() == ["How much?"]


@endings
async def test_a_thread_that_ended_badly_says_the_same_on_resume(
    creates: list[Answer], retrieves: list[Answer], kind: type[SupervisorError]
) -> None:
    async with harness(creates, retrieves, **SETTINGS) as h:
        with pytest.raises(kind) as first:
            await h.ask()
        with pytest.raises(kind) as again:
            await h.resume()
        assert str(again.value) == str(first.value)
        assert {name: value for name, value in vars(again.value).items() if name != "__notes__"} == {
            name: value for name, value in vars(first.value).items() if name != "__notes__"
        }
    assert len(h.service.posts) == 1


@endings
async def test_after_a_bad_end_another_question_works(
    creates: list[Answer], retrieves: list[Answer], kind: type[SupervisorError]
) -> None:
    async with harness(creates, retrieves, **SETTINGS) as h:
        with pytest.raises(kind):
            await h.ask()
        await works_again(h)
        assert (await h.job())["failure"] is None


@endings
async def test_sync_callers_get_the_same_error(
    creates: list[Answer], retrieves: list[Answer], kind: type[SupervisorError]
) -> None:
    async with harness(creates, retrieves, **SETTINGS) as h:
        question = {"messages": [("user", "How much?")]}
        with pytest.raises(kind):
            await asyncio.to_thread(lambda: h.graph.invoke(question, CONFIG))


# ---- message


@endings
async def test_an_error_can_be_the_answer_instead_and_the_run_goes_on(
    creates: list[Answer], retrieves: list[Answer], kind: type[SupervisorError]
) -> None:
    async with harness(creates, retrieves, on_failure="message", **SETTINGS) as h:
        *_, said = await h.ask()
        assert isinstance(said, AIMessage)
        assert said.response_metadata["error"] == kind.__name__
        assert said.text == (await h.job())["failure"]["message"]
        assert said.id == f"{(await h.turn()).turn_id}:failure"
        assert await h.waits_at() == ()
        assert (await h.turn()).ended_at is not None
        await works_again(h)
        assert await h.texts() == ["How much?", said.text, "Another question", "fine"]


async def test_what_a_failed_job_delivered_comes_before_the_message() -> None:
    failed = response("failed", message("one", "m1"), error="it broke")
    async with harness(retrieves=[failed], on_failure="message") as h:
        await h.ask()
        assert (await h.texts())[:2] == ["How much?", "one"]
        assert "it broke" in (await h.texts())[2]


# ---- what a status stands for


def failure(body: dict[str, Any], delivered: int = 0) -> JobError | None:
    return failure_of_status("resp_1", body, delivered)


@pytest.mark.parametrize("status", ["completed", "incomplete", None])
def test_an_answer_is_no_failure(status: str | None) -> None:
    assert failure({"status": status}, delivered=1) is None


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_what_was_delivered_does_not_make_a_failure_an_answer(status: str) -> None:
    error = failure({"status": status}, delivered=3)
    assert error is not None
    assert "What it delivered before is in the thread" in str(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"code": "E", "message": "it broke"}, "failed: E: it broke."),
        ({"error_code": "E", "message": "it broke."}, "failed: E: it broke."),
        ({"message": "it\n  broke"}, "failed: it broke."),
        ({"code": "E"}, "failed: E."),
        ({"detail": 1}, "failed: {'detail': 1}."),
        ("it broke?", "failed: it broke? "),
        (["a"], "failed: ['a']."),
        (7, "failed: 7."),
        (True, "failed: True."),
    ],
)
@pytest.mark.parametrize("status", ["failed", "completed"])
def test_what_the_service_says_is_passed_on(status: str, error: Any, said: str) -> None:
    found = failure({"status": status, "error": error}, delivered=1)
    assert isinstance(found, JobFailedError)
    assert said in str(found)
    assert (found.response_id, found.status) == ("resp_1", status)


@pytest.mark.parametrize("error", [None, {}, "", [], 0, False])
def test_an_error_that_says_nothing_is_none(error: Any) -> None:
    assert failure({"status": "completed", "error": error}, delivered=1) is None
    assert "no explanation was given" in str(failure({"status": "failed", "error": error}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["code", "message", "x"]), inner)
    ),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    st.sampled_from(["completed", "failed", "cancelled", "incomplete"]),
    json_values,
    json_values,
    st.integers(0, 3),
)
def test_any_end_is_read(status: str, error: Any, details: Any, delivered: int) -> None:
    found = failure({"status": status, "error": error, "incomplete_details": details}, delivered)
    assert found is None or str(found).endswith("Send the message again to start a new job.")
    assert found is not None or delivered


def test_a_failed_job_does_not_tell_a_token() -> None:
    error = {"message": f"401 for Authorization: Bearer {API_KEY} and dapi0123456789abcdef"}
    assert "[redacted]" in str(failure({"status": "failed", "error": error}))
    assert API_KEY not in str(failure({"status": "failed", "error": error}))
    assert "dapi0" not in str(failure({"status": "failed", "error": error}))
