"""A submission that was not accepted: what is repeated, and what is told."""

from __future__ import annotations

from typing import Any

import pytest

from databricks_supervisor.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDeniedError,
    RequestRejectedError,
    ServiceError,
    ServiceRetiredError,
    ServiceUnavailableError,
)
from tests.support.graph_harness import ANSWERED, QUEUED, harness
from tests.support.scripted_service import Answer, Item, ScriptedService, refusal, serving

# ---- nothing was submitted, and it may work in a moment


async def test_an_overloaded_service_is_asked_again_when_it_says_so() -> None:
    busy = refusal(429, "slow down", {"Retry-After": "7"})
    async with harness([busy, busy, QUEUED]) as h:
        await h.ask()
    assert len(h.service.posts) == 3
    assert h.time.slept[:2] == [7.0, 7.0]


async def test_a_service_that_stays_overloaded_is_given_up_and_the_turn_is_kept() -> None:
    busy = refusal(429, "slow down", {"Retry-After": "25"})
    async with harness([busy, busy, busy, QUEUED]) as h:
        with pytest.raises(
            ServiceUnavailableError, match=r"overloaded \(429\).*Nothing was submitted"
        ) as raised:
            await h.ask()
        assert raised.value.status_code == 429
        assert h.time.elapsed == 50
        assert (await h.turn()).ended_at is None
        assert await h.submission() is None
        await h.ask()
        assert await h.texts() == ANSWERED
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
        assert await h.texts() == ANSWERED
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
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 1


# ---- nothing was submitted, and the caller has to do something


async def test_stale_credentials_are_refreshed_once() -> None:
    async with harness([refusal(401), QUEUED]) as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    assert h.identities == [None, None]
    assert len(h.service.posts) == 2


@pytest.mark.parametrize(
    ("status", "kind", "posts"), [(401, AuthenticationError, 2), (403, PermissionDeniedError, 1)]
)
@pytest.mark.parametrize("again", ["ask", "resume"])
async def test_who_may_not_submit_keeps_the_turn(
    status: int, kind: type[ServiceError], posts: int, again: str
) -> None:
    async with harness([refusal(status)] * posts + [QUEUED]) as h:
        with pytest.raises(kind, match="Nothing was submitted") as raised:
            await h.ask()
        assert raised.value.status_code == status
        assert len(h.service.posts) == posts
        assert (await h.turn()).ended_at is None
        turn_id = (await h.turn()).turn_id
        await (h.ask() if again == "ask" else h.resume())
        assert await h.texts() == ANSWERED
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
        assert await h.texts() == ANSWERED
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
        assert await h.texts() == ANSWERED


# docs/wire.md: Errors.
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
    async with harness([Answer(400, body), QUEUED]) as h:
        with pytest.raises(RequestRejectedError, match="Nothing was submitted") as raised:
            await h.ask("one")
        assert advice in str(raised.value)
        assert raised.value.status_code == 400
        assert (await h.turn()).ended_at is not None
        await h.ask("two")
        assert await h.texts() == ["one", "two", "42"]
    assert len(h.service.posts) == 2


async def test_a_rejected_request_says_so_again_when_the_thread_is_resumed() -> None:
    async with harness([refusal(400, "bad model"), QUEUED]) as h:
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
