"""Submitting: at most one POST, whatever happens."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from typing import Any

import pytest
from langchain_core.tools import tool

from databricks_supervisor import genie_space
from databricks_supervisor.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDeniedError,
    RequestRejectedError,
    ServiceError,
    ServiceRetiredError,
    ServiceUnavailableError,
    SubmissionUnknownError,
)
from databricks_supervisor.ledger import EffectKey
from tests.support.scene import CONFIG, Scene, scene
from tests.support.scripted_service import (
    API_KEY,
    Answer,
    Item,
    ScriptedService,
    message,
    refusal,
    response,
    serving,
)

ACCEPTED = response("queued")
DROPPED = Answer(drop="unanswered")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


# ---- what is sent (CONTRACT: Submit)


async def test_the_request_is_what_the_contract_says() -> None:
    space = genie_space("01ef", "Sales")
    trace = {"catalog_name": "c", "schema_name": "s", "table_prefix": "p"}
    async with scene(
        model="databricks-claude",
        instructions="Be kind",
        tools=[space, add],
        parameters={"trace_destination": trace},
    ) as s:
        await s.ask("How much?")
    (request,) = s.service.posts
    function = request.body["tools"][1]
    assert request.body == {
        "model": "databricks-claude",
        "instructions": "Be kind",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "How much?"}]}
        ],
        "tools": [space, function],
        "background": True,
        "stream": False,
        "trace_destination": trace,
    }
    assert (function["type"], function["name"], function["parameters"]["type"]) == (
        "function",
        "add",
        "object",
    )


async def test_what_was_not_given_is_not_sent() -> None:
    async with scene() as s:
        await s.ask()
    assert set(s.service.posts[0].body) == {"model", "input", "background", "stream"}


def nulls(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [key for key, inner in value.items() if inner is None or nulls(inner)]
    return [inner for inner in value if inner is None or nulls(inner)] if isinstance(value, list) else []


async def test_the_whole_history_is_sent_without_nulls_or_an_earlier_id() -> None:
    echoed = {**message("42"), "namespace": None, "caller": None, "async_": None, "phase": None}
    creates = [response("queued", id="resp_1"), response("queued", id="resp_2")]
    retrieves = [response("completed", echoed), response("completed", message("43", "msg_2"), id="resp_2")]
    async with scene(creates, retrieves) as s:
        await s.ask("How much?")
        await s.ask("And now?")
    body = s.service.posts[1].body
    said = [(item["role"], item["content"][0]["text"]) for item in body["input"]]
    assert said == [("user", "How much?"), ("assistant", "42"), ("user", "And now?")]
    assert nulls(body) == []
    assert "previous_response_id" not in body


async def test_each_attempt_and_each_turn_has_an_idempotency_key_of_its_own() -> None:
    creates = [DROPPED, ACCEPTED, response("queued", id="resp_2")]
    retrieves = [
        response("completed", message("42")),
        response("completed", message("43", "msg_2"), id="resp_2"),
    ]
    async with scene(creates, retrieves, on_unknown_submission="resubmit") as s:
        await s.ask("one")
        await s.ask("two")
    keys = [post.headers["idempotency-key"] for post in s.service.posts]
    assert all(keys)
    assert len(set(keys)) == 3


async def test_a_question_with_odd_characters_arrives_as_it_is() -> None:
    text = 'Grüße 👋 "quoted" \\ \u2028 \x00 end'
    async with scene() as s:
        await s.ask(text)
    assert s.service.posts[0].body["input"][0]["content"][0]["text"] == text


# ---- what is kept


async def test_the_id_is_in_the_state_and_in_the_ledger() -> None:
    async with scene([response("queued", id="resp_" + "x" * 186)]) as s:
        await s.ask()
        submission = await s.submission()
    assert submission is not None
    assert submission.outcome is not None
    assert submission.outcome["response_id"] == (await s.job())["response_id"] == "resp_" + "x" * 186


async def test_a_job_that_is_terminal_at_once_is_read_at_once() -> None:
    async with scene([response("completed", message("42"))]) as s:
        await s.ask()
        assert await s.texts() == ["How much?", "42"]
    assert s.time.slept == [0.0]


async def test_cancelling_the_run_during_the_post_does_not_lose_the_id() -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    async with scene([Answer(body=ACCEPTED.body, reached=reached, until=go_on)]) as s:
        run = asyncio.ensure_future(s.ask())
        await reached.wait()
        run.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run
        submission = await s.submission()
        assert submission is not None
        assert submission.outcome is not None
        assert submission.outcome["response_id"] == "resp_1"
        await s.resume()
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 1


# ---- nothing was submitted, and it may work in a moment


async def test_an_overloaded_service_is_asked_again_when_it_says_so() -> None:
    busy = refusal(429, "slow down", {"Retry-After": "7"})
    async with scene([busy, busy, ACCEPTED]) as s:
        await s.ask()
    assert len(s.service.posts) == 3
    assert s.time.slept[:2] == [7.0, 7.0]


async def test_a_service_that_stays_overloaded_is_given_up_and_the_turn_is_kept() -> None:
    busy = refusal(429, "slow down", {"Retry-After": "25"})
    async with scene([busy, busy, busy, ACCEPTED]) as s:
        with pytest.raises(
            ServiceUnavailableError, match=r"overloaded \(429\).*Nothing was submitted"
        ) as raised:
            await s.ask()
        assert raised.value.status_code == 429
        assert s.time.elapsed == 50
        assert (await s.turn()).ended_at is None
        assert await s.submission() is None
        await s.ask()
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 4


async def test_a_service_that_wants_too_long_a_pause_is_given_up_at_once() -> None:
    async with scene([refusal(429, headers={"Retry-After": "3600"})]) as s:
        with pytest.raises(ServiceUnavailableError):
            await s.ask()
    assert s.time.slept == []
    assert len(s.service.posts) == 1


async def test_a_service_that_refuses_the_connection_is_given_up_after_a_moment_and_found_again() -> None:
    async with scene() as s:
        away = ScriptedService()
        async with serving(away):
            pass
        s.make_client = away.client
        with pytest.raises(ServiceUnavailableError, match=r"Cannot reach http://127.*Nothing was submitted"):
            await s.ask()
        assert 0 < s.time.elapsed <= 4
        assert (await s.turn()).ended_at is None
        s.make_client = s.service.client
        s.graph.parts.clients.invalidate(None)
        await s.ask()
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 1


async def test_a_connection_that_comes_back_is_used() -> None:
    async with scene() as s:
        away = ScriptedService()
        async with serving(away):
            pass

        def comes_back(seconds: float) -> None:
            s.make_client = s.service.client
            s.graph.parts.clients.invalidate(None)

        s.make_client, s.time.on_sleep = away.client, comes_back
        await s.ask()
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 1


# ---- nothing was submitted, and the caller has to do something


async def test_stale_credentials_are_refreshed_once() -> None:
    async with scene([refusal(401), ACCEPTED]) as s:
        await s.ask()
        assert await s.texts() == ["How much?", "42"]
    assert s.identities == [None, None]
    assert len(s.service.posts) == 2


@pytest.mark.parametrize(
    ("status", "kind", "posts"), [(401, AuthenticationError, 2), (403, PermissionDeniedError, 1)]
)
@pytest.mark.parametrize("again", ["ask", "resume"])
async def test_who_may_not_submit_keeps_the_turn(
    status: int, kind: type[ServiceError], posts: int, again: str
) -> None:
    async with scene([refusal(status)] * posts + [ACCEPTED]) as s:
        with pytest.raises(kind, match="Nothing was submitted") as raised:
            await s.ask()
        assert raised.value.status_code == status
        assert len(s.service.posts) == posts
        assert (await s.turn()).ended_at is None
        turn_id = (await s.turn()).turn_id
        await (s.ask() if again == "ask" else s.resume())
        assert await s.texts() == ["How much?", "42"]
        assert (await s.turn()).turn_id == turn_id
    assert len(s.service.posts) == posts + 1


async def test_credentials_that_cannot_be_obtained_keep_the_turn() -> None:
    async def no_token() -> str:
        raise RuntimeError("log in first")

    async with scene() as s:
        s.make_client = lambda: s.service.client(no_token)
        with pytest.raises(AuthenticationError, match="log in first"):
            await s.ask()
        assert s.service.requests == []
        s.make_client = s.service.client
        s.graph.parts.clients.invalidate(None)
        await s.resume()
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 1


async def test_a_client_that_cannot_be_built_keeps_the_turn() -> None:
    async with scene() as s:

        def broken() -> Any:
            raise OSError("no config file")

        s.make_client = broken
        with pytest.raises(ConfigurationError, match="no config file"):
            await s.ask()
        assert await s.submission() is None
        s.make_client = s.service.client
        await s.resume()
        assert await s.texts() == ["How much?", "42"]


# CONTRACT: Errors to recognise.
REJECTED: dict[str, tuple[Item, str]] = {
    "gateway": (
        {"error_code": "FEATURE_DISABLED", "message": "Please ensure AI Gateway V2 is enabled"},
        "ask its admin to enable it",
    ),
    "parameters": (
        {"error": {"message": "Parameter not supported when tools are provided: top_p"}},
        "Leave temperature, top_p",
    ),
    "name": ({"error": {"message": "function tool 'name' must match ^[a-z]"}}, "Rename the function"),
    "no output": (
        {"message": "No tool output found for function call call_1"},
        "The history has a call without its output",
    ),
    "no call": (
        {"message": "No tool call found for function call output with call_id call_1"},
        "The history has an output without its call",
    ),
    "invalid": ({"error_code": "INVALID_PARAMETER_VALUE", "message": "No model n"}, "Check the model's name"),
    "login": (
        {
            "message": "Credential for user identity a is not found for the connection web. Please login first to "
            "the connection by visiting https://workspace/connections/web"
        },
        "https://workspace/connections/web",
    ),
    "unheard of": ({"error": {"message": "the moon is full"}}, "the moon is full"),
}


@pytest.mark.parametrize(("body", "advice"), REJECTED.values(), ids=REJECTED.keys())
async def test_a_rejected_request_ends_the_turn_with_advice_and_another_question_works(
    body: Item, advice: str
) -> None:
    async with scene([Answer(400, body), ACCEPTED]) as s:
        with pytest.raises(RequestRejectedError, match="Nothing was submitted") as raised:
            await s.ask("one")
        assert advice in str(raised.value)
        assert raised.value.status_code == 400
        assert (await s.turn()).ended_at is not None
        await s.ask("two")
        assert await s.texts() == ["one", "two", "42"]
    assert len(s.service.posts) == 2


async def test_a_rejected_request_says_so_again_when_the_thread_is_resumed() -> None:
    async with scene([refusal(400, "bad model"), ACCEPTED]) as s:
        for go in (s.ask, s.resume, s.resume):
            with pytest.raises(RequestRejectedError, match="bad model"):
                await go()
    assert len(s.service.posts) == 1


@pytest.mark.parametrize("status", [410, 501])
async def test_a_retired_service_names_the_alternatives(status: int) -> None:
    async with scene([refusal(status, "The Supervisor API has ended")]) as s:
        with pytest.raises(ServiceRetiredError, match="an agent on Databricks Apps, OpenAI") as raised:
            await s.ask()
    assert "The Supervisor API has ended" in str(raised.value)
    assert "client_factory" in str(raised.value)
    assert len(s.service.posts) == 1


# ---- nobody knows what became of it


UNKNOWN = {
    **{str(status): refusal(status) for status in (408, 409, 500, 502, 503)},
    "dropped before the request was read": Answer(drop="unread"),
    "dropped before the answer": DROPPED,
    "dropped in the answer": Answer(body=ACCEPTED.body, drop="halfway"),
    "garbage": Answer(body=b"<html>OK</html>"),
}


@pytest.mark.parametrize("answer", UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_a_post_of_unknown_outcome_is_never_repeated_by_itself(answer: Answer) -> None:
    async with scene([answer, ACCEPTED]) as s:
        await s.ask()
        asked = await s.interrupt()
        await s.resume()  # Nobody answered.
        assert await s.interrupt() == asked
        assert len(s.service.posts) == 1
        assert s.service.gets == []


async def test_a_post_that_takes_too_long_is_of_unknown_outcome() -> None:
    never = asyncio.Event()
    async with scene([Answer(until=never)], create_timeout_s=0.02) as s:
        await s.ask()
        assert "ReadTimeout" in (await s.interrupt())["action_requests"][0]["description"]
    assert len(s.service.posts) == 1


async def test_a_person_is_asked_in_the_shape_that_studio_draws() -> None:
    async with scene([DROPPED]) as s:
        await s.ask()
        asked = await s.interrupt()
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


async def unknown(s: Scene) -> None:
    await s.ask()
    assert await s.waits_at() == ("submit",)
    assert len(s.service.posts) == 1


@pytest.mark.parametrize(
    "answer",
    [True, {"resubmit_1": True}, {"decisions": [{"type": "approve"}]}, {"resubmit_1": {"type": "approve"}}],
)
async def test_a_yes_submits_once_more(answer: Any) -> None:
    async with scene([DROPPED, ACCEPTED]) as s:
        await unknown(s)
        await s.resume(answer)
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (False, "A person decided not to send it again."),
        ({"resubmit_1": {"type": "reject", "message": "too dear"}}, "not to send it again (too dear)."),
        ({"decisions": [{"type": "reject"}]}, "A person decided not to send it again."),
    ],
)
async def test_a_no_ends_the_turn_and_the_same_question_is_a_new_job(answer: Any, said: str) -> None:
    async with scene([DROPPED, ACCEPTED]) as s:
        await unknown(s)
        with pytest.raises(SubmissionUnknownError) as raised:
            await s.resume(answer)
        assert said in str(raised.value)
        assert "Send the message again to start a new job" in str(raised.value)
        assert len(s.service.posts) == 1
        assert (await s.turn()).ended_at is not None
        await s.ask()
        assert (await s.texts())[-1] == "42"
    assert len(s.service.posts) == 2


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
    async with scene([DROPPED, ACCEPTED]) as s:
        await unknown(s)
        await s.resume(answer)
        again = await s.interrupt()
        assert "Nothing was approved" in again["error"]
        assert again["ids"] == ["resubmit_1"]
        assert len(s.service.posts) == 1
        await s.resume(True)
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 2


async def test_an_empty_answer_answers_nothing() -> None:
    async with scene([DROPPED, ACCEPTED]) as s:
        await unknown(s)
        await s.resume({})
        assert (await s.interrupt())["ids"] == ["resubmit_1"]
    assert len(s.service.posts) == 1


async def test_a_second_unknown_outcome_is_a_second_question() -> None:
    async with scene([DROPPED, refusal(503), ACCEPTED]) as s:
        await unknown(s)
        await s.resume({"resubmit_1": True})
        second = await s.interrupt()
        assert second["ids"] == ["resubmit_2"]
        assert "503" in second["action_requests"][0]["description"]
        await s.resume({"resubmit_1": True})  # The old answer is not the answer to the new question.
        assert "error" in await s.interrupt()
        assert len(s.service.posts) == 2
        await s.resume({"resubmit_2": True})
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 3


async def test_asking_again_while_a_person_is_asked_submits_nothing() -> None:
    async with scene([DROPPED, ACCEPTED]) as s:
        await unknown(s)
        await s.ask()
        assert (await s.interrupt())["ids"] == ["resubmit_1"]
        assert await s.texts() == ["How much?"]
    assert len(s.service.posts) == 1


async def test_what_is_known_meanwhile_is_not_asked_or_repeated() -> None:
    """A person says yes, and at that moment the answer of the first POST is recorded after all."""
    async with scene([DROPPED, ACCEPTED]) as s:
        await unknown(s)
        ledger, turn = await s.ledger(), await s.turn()
        outcome = {"response_id": "resp_1", "status": "queued"}
        assert await ledger.record(EffectKey(turn.turn_id, 0, "submit"), 1, outcome)
        await s.resume(True)
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 1


async def test_resubmit_repeats_without_asking_but_not_for_ever() -> None:
    async with scene([DROPPED, refusal(500), ACCEPTED], on_unknown_submission="resubmit") as s:
        await s.ask()
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 3
    async with scene([DROPPED], on_unknown_submission="resubmit") as s:
        with pytest.raises(SubmissionUnknownError):
            await s.ask()
    assert len(s.service.posts) == 3


async def test_fail_ends_the_turn_without_asking() -> None:
    async with scene([DROPPED, ACCEPTED], on_unknown_submission="fail") as s:
        with pytest.raises(SubmissionUnknownError, match="It was not sent again"):
            await s.ask()
        await s.ask()
        assert (await s.texts())[-1] == "42"
    assert len(s.service.posts) == 2


async def test_without_a_checkpointer_nobody_can_be_asked() -> None:
    async with scene([DROPPED, ACCEPTED]) as s:
        with pytest.raises(SubmissionUnknownError):
            await s.builder.compile().ainvoke({"messages": [("user", "How much?")]})
    assert len(s.service.posts) == 1


async def test_a_caller_that_must_go_on_gets_a_message_instead_of_an_error() -> None:
    async with scene([DROPPED, ACCEPTED], on_unknown_submission="fail", on_failure="message") as s:
        await s.ask("one")
        assert (await s.texts())[1].startswith("The question was sent at ")
        await s.ask("two")
        assert (await s.texts())[-1] == "42"


async def test_two_processes_that_submit_one_turn_make_one_job() -> None:
    async with scene() as s:
        await asyncio.gather(*(s.ask() for _ in range(5)))
        assert await s.texts() == ["How much?", "42"]
    assert len(s.service.posts) == 1


# ---- secrets


@pytest.mark.parametrize("status", [200, 400, 401, 403, 410, 429, 500])
@pytest.mark.parametrize("on_failure", ["raise", "message"])
async def test_credentials_that_the_service_repeats_go_nowhere(
    status: int, on_failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"message": f"I got Authorization: Bearer {API_KEY}, that is {API_KEY}"}
    async with scene([Answer(status, body)], on_failure=on_failure) as s:
        said = ""
        try:
            await s.ask()
        except ServiceError as error:
            said = "".join(traceback.format_exception(error)) + repr(error)
        state = await s.graph.aget_state(CONFIG)
        ledger = await (await s.ledger()).effects((await s.turn()).turn_id)
        kept = repr([saved async for saved in s.saver.alist(CONFIG)])
    for text in (said, repr(state), repr(ledger), kept, caplog.text):
        assert API_KEY not in text
