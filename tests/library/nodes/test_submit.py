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
from tests.support.graph_harness import CONFIG, GraphHarness, harness
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
    async with harness(
        model="databricks-claude",
        instructions="Be kind",
        tools=[space, add],
        parameters={"trace_destination": trace},
    ) as h:
        await h.ask("How much?")
    (request,) = h.service.posts
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
    async with harness() as h:
        await h.ask()
    assert set(h.service.posts[0].body) == {"model", "input", "background", "stream"}


def nulls(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [key for key, inner in value.items() if inner is None or nulls(inner)]
    return [inner for inner in value if inner is None or nulls(inner)] if isinstance(value, list) else []


async def test_the_whole_history_is_sent_without_nulls_or_an_earlier_id() -> None:
    echoed = {**message("42"), "namespace": None, "caller": None, "async_": None, "phase": None}
    creates = [response("queued", id="resp_1"), response("queued", id="resp_2")]
    retrieves = [response("completed", echoed), response("completed", message("43", "msg_2"), id="resp_2")]
    async with harness(creates, retrieves) as h:
        await h.ask("How much?")
        await h.ask("And now?")
    body = h.service.posts[1].body
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
    async with harness(creates, retrieves, on_unknown_submission="resubmit") as h:
        await h.ask("one")
        await h.ask("two")
    keys = [post.headers["idempotency-key"] for post in h.service.posts]
    assert all(keys)
    assert len(set(keys)) == 3


async def test_a_question_with_odd_characters_arrives_as_it_is() -> None:
    text = 'Grüße 👋 "quoted" \\ \u2028 \x00 end'
    async with harness() as h:
        await h.ask(text)
    assert h.service.posts[0].body["input"][0]["content"][0]["text"] == text


# ---- what is kept


async def test_the_id_is_in_the_state_and_in_the_ledger() -> None:
    async with harness([response("queued", id="resp_" + "x" * 186)]) as h:
        await h.ask()
        submission = await h.submission()
    assert submission is not None
    assert submission.outcome is not None
    assert submission.outcome["response_id"] == (await h.job())["response_id"] == "resp_" + "x" * 186


async def test_a_job_that_is_terminal_at_once_is_read_at_once() -> None:
    async with harness([response("completed", message("42"))]) as h:
        await h.ask()
        assert await h.texts() == ["How much?", "42"]
    assert h.time.slept == [0.0]


async def test_cancelling_the_run_during_the_post_does_not_lose_the_id() -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    async with harness([Answer(body=ACCEPTED.body, reached=reached, until=go_on)]) as h:
        run = asyncio.ensure_future(h.ask())
        await reached.wait()
        run.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run
        submission = await h.submission()
        assert submission is not None
        assert submission.outcome is not None
        assert submission.outcome["response_id"] == "resp_1"
        await h.resume()
        assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 1


# ---- nothing was submitted, and it may work in a moment


async def test_an_overloaded_service_is_asked_again_when_it_says_so() -> None:
    busy = refusal(429, "slow down", {"Retry-After": "7"})
    async with harness([busy, busy, ACCEPTED]) as h:
        await h.ask()
    assert len(h.service.posts) == 3
    assert h.time.slept[:2] == [7.0, 7.0]


async def test_a_service_that_stays_overloaded_is_given_up_and_the_turn_is_kept() -> None:
    busy = refusal(429, "slow down", {"Retry-After": "25"})
    async with harness([busy, busy, busy, ACCEPTED]) as h:
        with pytest.raises(
            ServiceUnavailableError, match=r"overloaded \(429\).*Nothing was submitted"
        ) as raised:
            await h.ask()
        assert raised.value.status_code == 429
        assert h.time.elapsed == 50
        assert (await h.turn()).ended_at is None
        assert await h.submission() is None
        await h.ask()
        assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 4


async def test_a_service_that_wants_too_long_a_pause_is_given_up_at_once() -> None:
    async with harness([refusal(429, headers={"Retry-After": "3600"})]) as h:
        with pytest.raises(ServiceUnavailableError):
            await h.ask()
    assert h.time.slept == []
    assert len(h.service.posts) == 1


async def test_a_service_that_refuses_the_connection_is_given_up_after_a_moment_and_found_again() -> None:
    async with harness() as h:
        away = ScriptedService()
        async with serving(away):
            pass
        h.make_client = away.client
        with pytest.raises(ServiceUnavailableError, match=r"Cannot reach http://127.*Nothing was submitted"):
            await h.ask()
        assert 0 < h.time.elapsed <= 4
        assert (await h.turn()).ended_at is None
        h.make_client = h.service.client
        h.graph.parts.clients.invalidate(None)
        await h.ask()
        assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 1


async def test_a_connection_that_comes_back_is_used() -> None:
    async with harness() as h:
        away = ScriptedService()
        async with serving(away):
            pass

        def comes_back(seconds: float) -> None:
            h.make_client = h.service.client
            h.graph.parts.clients.invalidate(None)

        h.make_client, h.time.on_sleep = away.client, comes_back
        await h.ask()
        assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 1


# ---- nothing was submitted, and the caller has to do something


async def test_stale_credentials_are_refreshed_once() -> None:
    async with harness([refusal(401), ACCEPTED]) as h:
        await h.ask()
        assert await h.texts() == ["How much?", "42"]
    assert h.identities == [None, None]
    assert len(h.service.posts) == 2


@pytest.mark.parametrize(
    ("status", "kind", "posts"), [(401, AuthenticationError, 2), (403, PermissionDeniedError, 1)]
)
@pytest.mark.parametrize("again", ["ask", "resume"])
async def test_who_may_not_submit_keeps_the_turn(
    status: int, kind: type[ServiceError], posts: int, again: str
) -> None:
    async with harness([refusal(status)] * posts + [ACCEPTED]) as h:
        with pytest.raises(kind, match="Nothing was submitted") as raised:
            await h.ask()
        assert raised.value.status_code == status
        assert len(h.service.posts) == posts
        assert (await h.turn()).ended_at is None
        turn_id = (await h.turn()).turn_id
        await (h.ask() if again == "ask" else h.resume())
        assert await h.texts() == ["How much?", "42"]
        assert (await h.turn()).turn_id == turn_id
    assert len(h.service.posts) == posts + 1


async def test_credentials_that_cannot_be_obtained_keep_the_turn() -> None:
    async def no_token() -> str:
        raise RuntimeError("log in first")

    async with harness() as h:
        h.make_client = lambda: h.service.client(no_token)
        with pytest.raises(AuthenticationError, match="log in first"):
            await h.ask()
        assert h.service.requests == []
        h.make_client = h.service.client
        h.graph.parts.clients.invalidate(None)
        await h.resume()
        assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 1


async def test_a_client_that_cannot_be_built_keeps_the_turn() -> None:
    async with harness() as h:

        def broken() -> Any:
            raise OSError("no config file")

        h.make_client = broken
        with pytest.raises(ConfigurationError, match="no config file"):
            await h.ask()
        assert await h.submission() is None
        h.make_client = h.service.client
        await h.resume()
        assert await h.texts() == ["How much?", "42"]


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
    async with harness([Answer(400, body), ACCEPTED]) as h:
        with pytest.raises(RequestRejectedError, match="Nothing was submitted") as raised:
            await h.ask("one")
        assert advice in str(raised.value)
        assert raised.value.status_code == 400
        assert (await h.turn()).ended_at is not None
        await h.ask("two")
        assert await h.texts() == ["one", "two", "42"]
    assert len(h.service.posts) == 2


async def test_a_rejected_request_says_so_again_when_the_thread_is_resumed() -> None:
    async with harness([refusal(400, "bad model"), ACCEPTED]) as h:
        for go in (h.ask, h.resume, h.resume):
            with pytest.raises(RequestRejectedError, match="bad model"):
                await go()
    assert len(h.service.posts) == 1


@pytest.mark.parametrize("status", [410, 501])
async def test_a_retired_service_names_the_alternatives(status: int) -> None:
    async with harness([refusal(status, "The Supervisor API has ended")]) as h:
        with pytest.raises(ServiceRetiredError, match="an agent on Databricks Apps, OpenAI") as raised:
            await h.ask()
    assert "The Supervisor API has ended" in str(raised.value)
    assert "client_factory" in str(raised.value)
    assert len(h.service.posts) == 1


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
    async with harness([answer, ACCEPTED]) as h:
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
    async with harness([DROPPED, ACCEPTED]) as h:
        await unknown(h)
        await h.resume(answer)
        assert await h.texts() == ["How much?", "42"]
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
    async with harness([DROPPED, ACCEPTED]) as h:
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
    async with harness([DROPPED, ACCEPTED]) as h:
        await unknown(h)
        await h.resume(answer)
        again = await h.interrupt()
        assert "Nothing was approved" in again["error"]
        assert again["ids"] == ["resubmit_1"]
        assert len(h.service.posts) == 1
        await h.resume(True)
        assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 2


async def test_an_empty_answer_answers_nothing() -> None:
    async with harness([DROPPED, ACCEPTED]) as h:
        await unknown(h)
        await h.resume({})
        assert (await h.interrupt())["ids"] == ["resubmit_1"]
    assert len(h.service.posts) == 1


async def test_a_second_unknown_outcome_is_a_second_question() -> None:
    async with harness([DROPPED, refusal(503), ACCEPTED]) as h:
        await unknown(h)
        await h.resume({"resubmit_1": True})
        second = await h.interrupt()
        assert second["ids"] == ["resubmit_2"]
        assert "503" in second["action_requests"][0]["description"]
        await h.resume({"resubmit_1": True})  # The old answer is not the answer to the new question.
        assert "error" in await h.interrupt()
        assert len(h.service.posts) == 2
        await h.resume({"resubmit_2": True})
        assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 3


async def test_asking_again_while_a_person_is_asked_submits_nothing() -> None:
    async with harness([DROPPED, ACCEPTED]) as h:
        await unknown(h)
        await h.ask()
        assert (await h.interrupt())["ids"] == ["resubmit_1"]
        assert await h.texts() == ["How much?"]
    assert len(h.service.posts) == 1


async def test_what_is_known_meanwhile_is_not_asked_or_repeated() -> None:
    """A person says yes, and at that moment the answer of the first POST is recorded after all."""
    async with harness([DROPPED, ACCEPTED]) as h:
        await unknown(h)
        ledger, turn = await h.ledger(), await h.turn()
        outcome = {"response_id": "resp_1", "status": "queued"}
        assert await ledger.record(EffectKey(turn.turn_id, 0, "submit"), 1, outcome)
        await h.resume(True)
        assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 1


async def test_resubmit_repeats_without_asking_but_not_for_ever() -> None:
    async with harness([DROPPED, refusal(500), ACCEPTED], on_unknown_submission="resubmit") as h:
        await h.ask()
        assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 3
    async with harness([DROPPED], on_unknown_submission="resubmit") as h:
        with pytest.raises(SubmissionUnknownError):
            await h.ask()
    assert len(h.service.posts) == 3


async def test_fail_ends_the_turn_without_asking() -> None:
    async with harness([DROPPED, ACCEPTED], on_unknown_submission="fail") as h:
        with pytest.raises(SubmissionUnknownError, match="It was not sent again"):
            await h.ask()
        await h.ask()
        assert (await h.texts())[-1] == "42"
    assert len(h.service.posts) == 2


async def test_without_a_checkpointer_nobody_can_be_asked() -> None:
    async with harness([DROPPED, ACCEPTED]) as h:
        with pytest.raises(SubmissionUnknownError):
            await h.builder.compile().ainvoke({"messages": [("user", "How much?")]})
    assert len(h.service.posts) == 1


async def test_a_caller_that_must_go_on_gets_a_message_instead_of_an_error() -> None:
    async with harness([DROPPED, ACCEPTED], on_unknown_submission="fail", on_failure="message") as h:
        await h.ask("one")
        assert (await h.texts())[1].startswith("The question was sent at ")
        await h.ask("two")
        assert (await h.texts())[-1] == "42"


async def test_two_processes_that_submit_one_turn_make_one_job() -> None:
    async with harness() as h:
        await asyncio.gather(*(h.ask() for _ in range(5)))
        assert await h.texts() == ["How much?", "42"]
    assert len(h.service.posts) == 1


# ---- secrets


@pytest.mark.parametrize("status", [200, 400, 401, 403, 410, 429, 500])
@pytest.mark.parametrize("on_failure", ["raise", "message"])
async def test_credentials_that_the_service_repeats_go_nowhere(
    status: int, on_failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"message": f"I got Authorization: Bearer {API_KEY}, that is {API_KEY}"}
    async with harness([Answer(status, body)], on_failure=on_failure) as h:
        said = ""
        try:
            await h.ask()
        except ServiceError as error:
            said = "".join(traceback.format_exception(error)) + repr(error)
        state = await h.graph.aget_state(CONFIG)
        ledger = await (await h.ledger()).effects((await h.turn()).turn_id)
        kept = repr([saved async for saved in h.saver.alist(CONFIG)])
    for text in (said, repr(state), repr(ledger), kept, caplog.text):
        assert API_KEY not in text
