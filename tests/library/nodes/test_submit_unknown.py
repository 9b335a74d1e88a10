"""A submission of which nobody knows whether it arrived: a person, or a setting, decides."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from databricks_supervisor.errors import SubmissionUnknownError
from databricks_supervisor.ledger import EffectKey
from tests.support.graph_harness import ANSWERED, DROPPED, QUEUED, GraphHarness, harness
from tests.support.scripted_service import Answer, refusal

UNKNOWN = {
    **{str(status): refusal(status) for status in (408, 409, 500, 502, 503)},
    "dropped before the request was read": Answer(drop="unread"),
    "dropped before the answer": DROPPED,
    "dropped in the answer": Answer(body=QUEUED.body, drop="halfway"),
    "garbage": Answer(body=b"<html>OK</html>"),
}


@pytest.mark.parametrize("answer", UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_a_post_of_unknown_outcome_is_never_repeated_by_itself(answer: Answer) -> None:
    async with harness([answer, QUEUED]) as h:
        await h.ask()
        asked = await h.interrupt()
        await h.resume()  # Nobody answered.
        assert await h.interrupt() == asked
        assert len(h.service.posts) == 1
        assert h.service.gets == []


async def test_a_post_that_takes_too_long_is_of_unknown_outcome() -> None:
    never = asyncio.Event()
    async with harness([Answer(until=never)], create_timeout_s=0.02) as h:
        await h.ask()
        assert "ReadTimeout" in (await h.interrupt())["action_requests"][0]["description"]
    assert len(h.service.posts) == 1


async def test_a_person_is_asked_in_the_shape_that_studio_draws() -> None:
    async with harness([DROPPED]) as h:
        await h.ask()
        asked = await h.interrupt()
    (action,) = asked["action_requests"]
    assert action["name"] == "resubmit_job"
    assert action["args"]["attempt"] == 1
    assert "what became of it is not known" in action["args"]["known"]
    assert "it then runs twice" in action["description"]
    assert asked["review_configs"] == [
        {"action_name": "resubmit_job", "allowed_decisions": ["approve", "reject"]}
    ]
    assert (asked["kind"], asked["ids"], asked["response_id"]) == ("repeat_submission", ["resubmit_1"], None)
    assert "error" not in asked
    json.dumps(asked)


async def unknown(h: GraphHarness) -> None:
    await h.ask()
    assert await h.waits_at() == ("submit",)
    assert len(h.service.posts) == 1


@pytest.mark.parametrize(
    "answer",
    [True, {"resubmit_1": True}, {"decisions": [{"type": "approve"}]}, {"resubmit_1": {"type": "approve"}}],
)
async def test_a_yes_submits_once_more(answer: Any) -> None:
    async with harness([DROPPED, QUEUED]) as h:
        await unknown(h)
        await h.resume(answer)
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (False, "A person decided not to send it again."),
        ({"resubmit_1": {"type": "reject", "message": "too dear"}}, "not to send it again (too dear)."),
        ({"decisions": [{"type": "reject"}]}, "A person decided not to send it again."),
    ],
)
async def test_a_no_ends_the_turn_and_the_same_question_is_a_new_job(answer: Any, said: str) -> None:
    async with harness([DROPPED, QUEUED]) as h:
        await unknown(h)
        with pytest.raises(SubmissionUnknownError) as raised:
            await h.resume(answer)
        assert said in str(raised.value)
        assert "Send the message again to start a new job" in str(raised.value)
        assert len(h.service.posts) == 1
        assert (await h.turn()).ended_at is not None
        await h.ask()
        assert (await h.texts())[-1] == "42"
    assert len(h.service.posts) == 2


@pytest.mark.parametrize(
    "answer",
    [
        "yes",
        1,
        [],
        {"resubmit_2": True},
        {"decisions": []},
        {"decisions": [True, True]},
        {"resubmit_1": "yes"},
    ],
)
async def test_a_malformed_answer_submits_nothing_and_is_asked_again_with_the_reason(answer: Any) -> None:
    async with harness([DROPPED, QUEUED]) as h:
        await unknown(h)
        await h.resume(answer)
        again = await h.interrupt()
        assert "Nothing was approved" in again["error"]
        assert again["ids"] == ["resubmit_1"]
        assert len(h.service.posts) == 1
        await h.resume(True)
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 2


async def test_an_empty_answer_answers_nothing() -> None:
    async with harness([DROPPED, QUEUED]) as h:
        await unknown(h)
        await h.resume({})
        assert (await h.interrupt())["ids"] == ["resubmit_1"]
    assert len(h.service.posts) == 1


async def test_a_second_unknown_outcome_is_a_second_question() -> None:
    async with harness([DROPPED, refusal(503), QUEUED]) as h:
        await unknown(h)
        await h.resume({"resubmit_1": True})
        second = await h.interrupt()
        assert second["ids"] == ["resubmit_2"]
        assert "503" in second["action_requests"][0]["description"]
        await h.resume({"resubmit_1": True})  # The old answer is not the answer to the new question.
        assert "error" in await h.interrupt()
        assert len(h.service.posts) == 2
        await h.resume({"resubmit_2": True})
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 3


async def test_asking_again_while_a_person_is_asked_submits_nothing() -> None:
    async with harness([DROPPED, QUEUED]) as h:
        await unknown(h)
        await h.ask()
        assert (await h.interrupt())["ids"] == ["resubmit_1"]
        assert await h.texts() == ["How much?"]
    assert len(h.service.posts) == 1


async def test_what_is_known_meanwhile_is_not_asked_or_repeated() -> None:
    """A person says yes, and at that moment the answer of the first POST is recorded after all."""
    async with harness([DROPPED, QUEUED]) as h:
        await unknown(h)
        ledger, turn = await h.ledger(), await h.turn()
        outcome = {"response_id": "resp_1", "status": "queued"}
        assert await ledger.record(EffectKey(turn.turn_id, 0, "submit"), 1, outcome)
        await h.resume(True)
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 1


async def test_resubmit_repeats_without_asking_but_not_for_ever() -> None:
    async with harness([DROPPED, refusal(500), QUEUED], on_unknown_submission="resubmit") as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 3
    async with harness([DROPPED], on_unknown_submission="resubmit") as h:
        with pytest.raises(SubmissionUnknownError):
            await h.ask()
    assert len(h.service.posts) == 3


async def test_fail_ends_the_turn_without_asking() -> None:
    async with harness([DROPPED, QUEUED], on_unknown_submission="fail") as h:
        with pytest.raises(SubmissionUnknownError, match="It was not sent again"):
            await h.ask()
        await h.ask()
        assert (await h.texts())[-1] == "42"
    assert len(h.service.posts) == 2


async def test_without_a_checkpointer_nobody_can_be_asked() -> None:
    async with harness([DROPPED, QUEUED]) as h:
        with pytest.raises(SubmissionUnknownError):
            await h.builder.compile().ainvoke({"messages": [("user", "How much?")]})
    assert len(h.service.posts) == 1


async def test_a_caller_that_must_go_on_gets_a_message_instead_of_an_error() -> None:
    async with harness([DROPPED, QUEUED], on_unknown_submission="fail", on_failure="message") as h:
        await h.ask("one")
        assert (await h.texts())[1].startswith("The question was sent at ")
        await h.ask("two")
        assert (await h.texts())[-1] == "42"
