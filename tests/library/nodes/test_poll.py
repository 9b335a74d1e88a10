"""Polling: when a job is read, and what of it is delivered."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

import pytest

from databricks_supervisor.errors import JobFailedError, SupervisorError, TurnEndedError
from databricks_supervisor.ledger import NewTurn
from tests.support.graph_harness import ANSWERED, CONFIG, DONE, QUEUED, RUNNING, harness
from tests.support.scripted_service import API_KEY, Answer, Item, message, response

# ---- when it polls


async def test_the_first_poll_comes_after_a_moment() -> None:
    async with harness() as h:
        await h.ask()
    assert h.time.slept == [0.3]
    assert len(h.service.gets) == 1


async def test_a_job_is_polled_until_it_ends() -> None:
    async with harness(retrieves=[QUEUED, RUNNING, RUNNING, DONE]) as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    assert len(h.service.gets) == 4
    assert [request.path for request in h.service.gets] == ["/v1/responses/resp_1"] * 4


async def test_the_whole_of_a_long_id_is_polled() -> None:
    long_id = "resp_" + "x" * 186
    async with harness(
        [response("queued", id=long_id)], [response("completed", message("42"), id=long_id)]
    ) as h:
        await h.ask()
        assert (await h.values())["messages"][-1].id == f"{long_id}:0"
    assert h.service.gets[0].path == f"/v1/responses/{long_id}"


async def test_a_fixed_cadence_is_kept() -> None:
    async with harness(retrieves=[RUNNING] * 3 + [DONE], polling=30) as h:
        await h.ask()
    assert h.time.elapsed == pytest.approx(91.0)


async def test_a_function_is_told_how_old_the_job_and_its_news_are() -> None:
    moments: list[tuple[float, float, int]] = []

    def cadence(moment: Any) -> float:
        moments.append((moment.age_s, moment.since_news_s, moment.polls))
        return 5.0

    first = response("in_progress", message("one"))
    both = response("completed", message("one"), message("two", "msg_2"))
    async with harness(retrieves=[RUNNING, first, first, both], polling=cadence) as h:
        await h.ask()
    assert moments == [(0, 0, 0), (5, 5, 1), (10, 0, 2), (15, 5, 3)]


async def test_auto_is_quick_at_first_and_slower_with_age() -> None:
    async with harness(retrieves=[RUNNING] * 120 + [DONE]) as h:
        await h.ask()
    assert h.time.slept[1] < 1
    assert h.time.slept[-1] > 5
    assert max(h.time.slept) <= 10


# ---- what is delivered


async def test_items_are_delivered_once_in_order_as_they_complete() -> None:
    one, two, three = message("one", "m1"), message("two", "m2"), message("three", "m3")
    retrieves = [
        response("in_progress", one),
        response("in_progress", one),
        response("in_progress", one, two),
        response("completed", one, two, three),
    ]
    async with harness(retrieves=retrieves) as h:
        question = {"messages": [{"role": "user", "content": "How much?"}]}
        updates = [chunk async for chunk in h.graph.astream(question, CONFIG, stream_mode="updates")]
        assert await h.texts() == ["How much?", "one", "two", "three"]
    said = [[m.text for m in chunk["poll"]["messages"]] for chunk in updates if "poll" in chunk]
    assert said == [["one"], ["two"], ["three"]]


@pytest.mark.parametrize("status", ["queued", "incomplete", "in_progress"])
async def test_nothing_is_delivered_past_the_first_unfinished_item(status: str) -> None:
    one, three = message("one", "m1"), message("three", "m3")
    begun, two = message("tw", "m2", status), message("two", "m2")
    retrieves = [response("in_progress", one, begun, three), response("completed", one, two, three)]
    async with harness(retrieves=retrieves) as h:
        question = {"messages": [{"role": "user", "content": "How much?"}]}
        states = [chunk async for chunk in h.graph.astream(question, CONFIG, stream_mode="values")]
        assert await h.texts() == ["How much?", "one", "two", "three"]
    said = [[m.text for m in state["messages"][1:]] for state in states]
    assert ["one"] in said
    assert not [texts for texts in said if "tw" in texts or texts == ["one", "three"]]


async def test_an_item_without_an_id_waits_until_it_has_one_or_the_job_ends() -> None:
    retrieves = [
        response("in_progress", message("one", None)),
        response("in_progress", message("one", "m1")),
        response("completed", message("one", "m1"), message("two", None, None)),
    ]
    async with harness(retrieves=retrieves) as h:
        await h.ask()
        assert await h.texts() == ["How much?", "one", "two"]


async def test_items_that_nobody_has_heard_of_are_delivered_too() -> None:
    odd: list[Any] = [{"type": "hologram", "id": "h1"}, None, "text", message("42")]
    async with harness(retrieves=[response("completed", *odd)]) as h:
        await h.ask()
        assert (await h.texts())[-1] == "42"
        assert (await h.job())["delivered"] == 4


@pytest.mark.parametrize("output", [None, {}, "rubbish", 7])
async def test_an_output_that_is_no_list_is_an_empty_one(output: Any) -> None:
    empty = Answer(body={"id": "resp_1", "status": "in_progress", "output": output})
    async with harness(retrieves=[empty, DONE]) as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    ended = Answer(body={"id": "resp_1", "status": "completed", "output": output})
    async with harness(retrieves=[ended]) as h:
        with pytest.raises(JobFailedError, match="completed without any output"):
            await h.ask()


def history(*said: tuple[str, str]) -> list[Item]:
    return [message(text, id) for text, id in said]


@pytest.mark.parametrize("echoes", [False, True])
@pytest.mark.parametrize("answer", ["43", "42"])
async def test_a_service_that_repeats_the_history_and_one_that_does_not_say_the_same(
    echoes: bool, answer: str
) -> None:
    creates = [response("queued", id="resp_1"), response("queued", id="resp_2")]
    before = history(("42", "msg_1")) if echoes else []
    retrieves = [
        DONE,
        response("in_progress", *before, id="resp_2"),
        response("completed", *before, message(answer, "msg_2"), id="resp_2"),
    ]
    async with harness(creates, retrieves) as h:
        await h.ask("How much?")
        await h.ask("And now?")
        assert await h.texts() == ["How much?", "42", "And now?", answer]
        assert [m.id for m in (await h.values())["messages"]][1::2] == ["resp_1:0", "resp_2:0"]


async def test_usage_is_kept() -> None:
    async with harness(retrieves=[response("completed", message("42"), usage={"total_tokens": 7})]) as h:
        await h.ask()
        assert (await h.job())["usage"] == {"total_tokens": 7}


async def test_a_body_that_did_not_change_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def counting(raw: Any, **options: Any) -> Any:
        if isinstance(raw, bytes):
            parsed.append(raw)
        return loads(raw, **options)

    loads = json.loads
    async with harness(retrieves=[RUNNING] * 50 + [DONE]) as h:
        monkeypatch.setattr("databricks_supervisor.client.responses.json.loads", counting)
        await h.ask()
    assert len(h.service.gets) == 51
    assert parsed.count(RUNNING.raw) == 1


<<<<<<< .merge_file_h2xg0Q
=======
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
    async with scene(retrieves=[RUNNING, answer]) as s:
        with pytest.raises(kind) as raised:
            await s.ask()
        assert (await s.turn()).ended_at is not None
        assert await s.texts() == ["How much?"]
    assert said in str(raised.value)
    assert "resp_1" in str(raised.value)
    assert "Send the message again to start a new job" in str(raised.value)
    assert raised.value.response_id == "resp_1"
    assert raised.value.status == answer.body["status"]


@pytest.mark.parametrize(("answer", "kind", "said"), [f[1:] for f in FAILED], ids=[f[0] for f in FAILED])
async def test_a_job_that_had_ended_at_submit_is_the_same_error(
    answer: Answer, kind: type[Exception], said: str
) -> None:
    async with scene([answer], [answer]) as s:
        with pytest.raises(kind):
            await s.ask()
    assert (len(s.service.posts), len(s.service.gets)) == (1, 1)


async def test_after_a_failed_job_the_same_question_is_a_new_job() -> None:
    creates = [response("queued"), response("queued", id="resp_2")]
    retrieves = [response("failed"), response("completed", message("42"), id="resp_2")]
    async with scene(creates, retrieves) as s:
        with pytest.raises(JobFailedError):
            await s.ask()
        await s.ask()
        assert await s.texts() == ["How much?", "How much?", "42"]
    assert len(s.service.posts) == 2


async def test_a_failed_job_says_the_same_when_the_thread_is_resumed() -> None:
    async with scene(retrieves=[response("failed", error="it broke")]) as s:
        for go in (s.ask, s.resume, s.resume):
            with pytest.raises(JobFailedError, match="it broke"):
                await go()
    assert len(s.service.gets) == 1


async def test_what_a_failed_job_delivered_is_kept() -> None:
    retrieves = [
        response("in_progress", message("one")),
        response("failed", message("one"), message("two", "m2")),
    ]
    async with scene(retrieves=retrieves) as s:
        with pytest.raises(JobFailedError, match="What it delivered before is in the thread"):
            await s.ask()
        assert await s.texts() == ["How much?", "one", "two"]


async def test_an_incomplete_job_that_delivered_something_is_a_partial_answer() -> None:
    partial = message("forty", "m1", "incomplete")
    async with scene(retrieves=[response("incomplete", partial)]) as s:
        await s.ask()
        assert await s.texts() == ["How much?", "forty"]
        assert (await s.job())["status"] == "incomplete"
        assert (await s.turn()).ended_at is not None


async def test_a_status_that_nobody_has_heard_of_is_waited_for() -> None:
    async with scene(retrieves=[response("thinking"), response("dreaming"), DONE]) as s:
        await s.ask()
        assert await s.texts() == ANSWERED


# ---- the deadline


async def test_a_job_that_is_not_done_at_its_deadline_is_given_up() -> None:
    async with scene(retrieves=[response("thinking")], polling=10, deadline_s=60) as s:
        with pytest.raises(
            JobTimeoutError, match=r"still 'thinking' after 1 minutes.*look once more"
        ) as raised:
            await s.ask()
        assert (raised.value.response_id, raised.value.status) == ("resp_1", "thinking")
        assert 60 < s.time.elapsed <= 80
        assert (await s.job())["failure"]["kind"] == "JobTimeoutError"
        assert (await s.turn()).ended_at is not None


async def test_the_default_deadline_is_a_little_over_half_an_hour() -> None:
    async with scene(retrieves=[RUNNING]) as s:
        with pytest.raises(JobTimeoutError):
            await s.ask()
    assert 32 * 60 < s.time.elapsed < 33 * 60


async def test_a_job_that_was_given_up_is_looked_at_once_more_on_resume() -> None:
    async with scene(retrieves=[RUNNING], deadline_s=60) as s:
        with pytest.raises(JobTimeoutError):
            await s.ask()
        polls = len(s.service.gets)
        with pytest.raises(JobTimeoutError):
            await s.resume()
        assert len(s.service.gets) == polls + 1
        s.service.retrieves[:] = [DONE]
        await s.resume()
        assert await s.texts() == ANSWERED
        assert (await s.job())["failure"] is None
    assert len(s.service.posts) == 1


async def test_the_same_question_after_the_deadline_is_a_new_job() -> None:
    creates = [response("queued"), response("queued", id="resp_2")]
    async with scene(creates, [RUNNING], deadline_s=60) as s:
        with pytest.raises(JobTimeoutError):
            await s.ask()
        s.service.retrieves[:] = [response("completed", message("42"), id="resp_2")]
        await s.ask()
        assert (await s.texts())[-1] == "42"
    assert len(s.service.posts) == 2


async def stopped(s: Scene) -> None:
    """A run that was cancelled while its job ran."""
    polled = asyncio.Event()
    s.time.on_sleep = lambda _: polled.set() if s.service.gets else None
    run = asyncio.ensure_future(s.ask())
    await polled.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    s.time.on_sleep = None


async def test_a_thread_that_is_resumed_a_week_later_asks_first_and_delivers() -> None:
    async with scene(retrieves=[RUNNING]) as s:
        await stopped(s)
        s.time.forward(WEEK_S)
        s.service.retrieves[:] = [DONE]
        await s.resume()
        assert await s.texts() == ANSWERED
    assert len(s.service.posts) == 1


async def test_items_that_came_after_the_deadline_are_delivered_before_it_counts() -> None:
    async with scene(retrieves=[RUNNING]) as s:
        await stopped(s)
        s.time.forward(WEEK_S)
        s.service.retrieves[:] = [response("in_progress", message("one"))]
        with pytest.raises(JobTimeoutError):
            await s.resume()
        assert await s.texts() == ["How much?", "one"]


async def test_the_deadline_does_not_count_while_the_service_cannot_be_asked() -> None:
    async with scene(retrieves=[refusal(503)] * 8 + [DONE], deadline_s=10) as s:
        await s.ask()
        assert await s.texts() == ANSWERED
    assert s.time.elapsed > 60


# ---- what may pass


PASSING = {
    **{str(status): refusal(status) for status in (408, 425, 429, 500, 502, 503, 504)},
    "dropped before the request was read": Answer(drop="unread"),
    "dropped before the answer": Answer(drop="unanswered"),
    "dropped in the answer": Answer(body=DONE.body, drop="halfway"),
    "garbage": Answer(body=b"<html>OK</html>"),
    "nothing": Answer(body=b""),
    "a list": Answer(body=[]),
    "no id": Answer(body={"status": "completed", "output": []}),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING.keys())
async def test_a_read_that_fails_is_repeated_with_longer_and_longer_pauses(answer: Answer) -> None:
    tries = 2 if answer.drop in ("unread", "unanswered") else 1  # Once more at once, on a fresh connection.
    async with scene(retrieves=[answer] * 4 * tries + [DONE]) as s:
        await s.ask()
        assert await s.texts() == ANSWERED
    assert s.time.slept == [0.3, 0.5, 1.0, 2.0, 4.0]
    assert len(s.service.posts) == 1


async def test_a_success_resets_the_pauses() -> None:
    async with scene(retrieves=[refusal(503), refusal(503), RUNNING, refusal(503), DONE]) as s:
        await s.ask()
    assert s.time.slept[1:3] == [0.5, 1.0]
    assert s.time.slept[-1] == 0.5


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_obeyed(status: int) -> None:
    async with scene(retrieves=[refusal(status, headers={"Retry-After": "17"}), DONE]) as s:
        await s.ask()
    assert s.time.elapsed == pytest.approx(17.3)


async def test_retry_after_is_obeyed_as_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    async with scene(retrieves=[refusal(429, headers={"Retry-After": in_a_minute}), DONE]) as s:
        await s.ask()
    assert 50 < s.time.elapsed <= 60.3


async def test_a_read_that_takes_too_long_is_repeated() -> None:
    never = asyncio.Event()
    async with scene(retrieves=[Answer(until=never), DONE], retrieve_timeout_s=0.02) as s:
        await s.ask()
        assert await s.texts() == ANSWERED


async def test_a_service_that_stays_away_ends_the_run_and_keeps_the_turn() -> None:
    async with scene(retrieves=[refusal(503, "maintenance")], unreachable_after_s=120) as s:
        with pytest.raises(
            ServiceUnavailableError, match=r"could not be read for .*nothing was lost"
        ) as raised:
            await s.ask()
        assert "maintenance" in str(raised.value)
        assert 120 < s.time.elapsed < 160
        assert (await s.turn()).ended_at is None
        s.service.retrieves[:] = [DONE]
        await s.resume()
        assert await s.texts() == ANSWERED
    assert len(s.service.posts) == 1


async def test_the_same_question_after_a_service_was_away_finds_its_job() -> None:
    async with scene(retrieves=[Answer(drop="unread")], unreachable_after_s=20) as s:
        with pytest.raises(ServiceUnavailableError):
            await s.ask()
        s.service.retrieves[:] = [DONE]
        await s.ask()
        assert await s.texts() == ANSWERED
    assert len(s.service.posts) == 1


# ---- who asks


async def test_credentials_that_went_stale_are_refreshed_once_and_nobody_notices() -> None:
    async with scene(retrieves=[RUNNING, refusal(401), RUNNING, refusal(401), DONE]) as s:
        await s.ask()
        assert await s.texts() == ANSWERED
    assert s.identities == [None, None, None]


@pytest.mark.parametrize(
    ("status", "kind", "gets"), [(401, AuthenticationError, 2), (403, PermissionDeniedError, 1)]
)
@pytest.mark.parametrize("again", ["ask", "resume"])
async def test_who_may_not_read_the_job_keeps_the_turn(
    status: int, kind: type[ServiceError], gets: int, again: str
) -> None:
    async with scene(retrieves=[refusal(status, "no")] * gets + [DONE]) as s:
        with pytest.raises(kind, match="the thread still has its id") as raised:
            await s.ask()
        assert raised.value.status_code == status
        assert len(s.service.gets) == gets
        assert (await s.turn()).ended_at is None
        await (s.ask() if again == "ask" else s.resume())
        assert await s.texts() == ANSWERED
    assert len(s.service.posts) == 1


# ---- what is final


async def test_a_job_that_is_not_found_yet_may_be_found_in_a_moment() -> None:
    async with scene(retrieves=[refusal(404)] * 5 + [DONE]) as s:
        await s.ask()
        assert await s.texts() == ANSWERED
    assert 5 <= s.time.elapsed <= 10


async def test_a_job_that_stays_lost_is_given_up() -> None:
    async with scene(retrieves=[refusal(404)], not_found_grace_s=10) as s:
        with pytest.raises(
            JobNotFoundError, match=r"Job resp_1 not found \(404\): it expired or was deleted"
        ):
            await s.ask()
        assert 10 <= s.time.elapsed <= 12
        assert (await s.turn()).ended_at is not None
        for go in (s.resume, s.resume):
            with pytest.raises(JobNotFoundError):
                await go()
    assert len(s.service.gets) <= 12


async def test_without_a_grace_a_lost_job_is_given_up_at_once() -> None:
    async with scene(retrieves=[refusal(404)], not_found_grace_s=0) as s:
        with pytest.raises(JobNotFoundError):
            await s.ask()
    assert len(s.service.gets) == 1


async def test_what_a_lost_job_had_delivered_is_kept() -> None:
    async with scene(retrieves=[response("in_progress", message("one")), refusal(404)]) as s:
        with pytest.raises(JobNotFoundError, match="still has everything it delivered"):
            await s.ask()
        assert await s.texts() == ["How much?", "one"]


@pytest.mark.parametrize("status", [410, 501])
async def test_a_service_that_retired_while_the_job_ran_names_the_alternatives(status: int) -> None:
    async with scene(retrieves=[RUNNING, refusal(status, "The Supervisor API has ended")]) as s:
        with pytest.raises(ServiceRetiredError, match="an agent on Databricks Apps, OpenAI") as raised:
            await s.ask()
        assert raised.value.status_code == status
        assert (await s.turn()).ended_at is not None
    assert len(s.service.gets) == 2


async def test_any_other_refusal_ends_the_turn() -> None:
    async with scene(retrieves=[refusal(400, "no such thing")]) as s:
        with pytest.raises(RequestRejectedError, match="no such thing"):
            await s.ask()
        assert (await s.turn()).ended_at is not None


>>>>>>> .merge_file_kUFXTi
# ---- others


async def test_nothing_is_written_for_a_turn_that_another_one_followed() -> None:
    async with harness(retrieves=[RUNNING]) as h:
        await h.ask_and_cancel()
        ledger, turn = await h.ledger(), await h.turn()
        await ledger.end_turn(turn.turn_id)
        await ledger.open_turn(NewTurn("other", "thread", "", None, "digest"))
        h.service.retrieves[:] = [DONE]
        with pytest.raises(TurnEndedError, match="another message followed it"):
            await h.resume()
        assert await h.texts() == ["How much?"]


async def test_cancelling_the_run_leaves_the_job_alone() -> None:
    async with harness(retrieves=[RUNNING]) as h:
        await h.ask_and_cancel()
        assert await h.waits_at() == ("poll",)
    assert h.service.cancelled == []


# ---- secrets


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 410, 429, 500])
async def test_credentials_that_the_service_repeats_go_nowhere(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"message": f"I got Authorization: Bearer {API_KEY}, that is {API_KEY}"}
    async with harness(retrieves=[RUNNING, Answer(status, body)], unreachable_after_s=5) as h:
        with pytest.raises(SupervisorError) as raised:
            await h.ask()
        said = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
        kept = repr([saved async for saved in h.saver.alist(CONFIG)])
    for text in (said, kept, caplog.text):
        assert API_KEY not in text
    assert "event=" in caplog.text or status not in (200, 429, 500)
