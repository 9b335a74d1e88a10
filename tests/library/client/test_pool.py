"""One client per identity and event loop, built off the loop."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from databricks_supervisor.client.failures import NotAccepted, OutcomeUnknown, Transient
from databricks_supervisor.client.pool import ClientPool, databricks_client
from databricks_supervisor.client.responses import ServiceResponse, SupervisorClient
from databricks_supervisor.errors import AuthenticationError, ConfigurationError
from tests.support.scripted_service import Answer, ScriptedService, message, refusal, response, serving

TOKEN = "dapi0123456789abcdef"


def made(identity: str | None = None) -> openai.AsyncOpenAI:
    return ScriptedService().client()


class Counting:
    """A factory that counts, and tells in which thread it was called."""

    def __init__(self) -> None:
        self.identities: list[str | None] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, identity: str | None) -> openai.AsyncOpenAI:
        self.identities.append(identity)
        self.threads.append(threading.current_thread())
        return made()


async def test_an_identity_has_one_client() -> None:
    factory = Counting()
    clients = ClientPool(factory)
    one, same, other = await clients.get("ada"), await clients.get("ada"), await clients.get("bob")
    assert one is same
    assert one is not other
    assert factory.identities == ["ada", "bob"]


async def test_many_that_ask_at_once_get_one_client() -> None:
    factory = Counting()
    clients = ClientPool(factory)
    assert len({id(client) for client in await asyncio.gather(*(clients.get(None) for _ in range(50)))}) == 1
    assert factory.identities == [None]


async def test_a_plain_factory_may_block_because_it_is_called_in_a_thread() -> None:
    factory = Counting()
    await ClientPool(factory).get(None)
    assert factory.threads[0] is not threading.current_thread()


def test_each_event_loop_has_a_client_of_its_own() -> None:
    clients = ClientPool(made)
    assert asyncio.run(clients.get(None)) is not asyncio.run(clients.get(None))


def test_loops_that_are_closed_are_not_kept() -> None:
    clients = ClientPool(made)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def one_run() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await clients.get(None)

    for _ in range(5):
        asyncio.run(one_run())
    gc.collect()
    assert len([loop for loop in loops if loop() is not None]) <= 1


async def asynchronous(identity: str | None) -> openai.AsyncOpenAI:
    await asyncio.sleep(0)
    return made()


def returns_an_awaitable(identity: str | None) -> Any:
    return asynchronous(identity)


class Callable_:
    async def __call__(self, identity: str | None) -> openai.AsyncOpenAI:
        return made()


@pytest.mark.parametrize("factory", [made, asynchronous, returns_an_awaitable, Callable_()])
async def test_a_factory_may_be_written_in_any_way(factory: Callable[..., Any]) -> None:
    assert isinstance(await ClientPool(factory).get(None), SupervisorClient)


async def test_a_forgotten_client_is_built_anew() -> None:
    factory = Counting()
    clients = ClientPool(factory)
    stale, other = await clients.get("ada"), await clients.get("bob")
    clients.invalidate("ada")
    clients.invalidate("nobody")
    assert await clients.get("ada") is not stale
    assert await clients.get("bob") is other


async def test_a_factory_that_failed_is_asked_again() -> None:
    answers: list[Any] = [OSError("no such file: token=hunter22"), made()]

    def factory(identity: str | None) -> openai.AsyncOpenAI:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    clients = ClientPool(factory)
    with pytest.raises(ConfigurationError, match=r"client_factory\('ada'\) failed: OSError") as failed:
        await clients.get("ada")
    assert "hunter22" not in str(failed.value)
    assert isinstance(await clients.get("ada"), SupervisorClient)


async def test_an_error_that_is_ours_is_passed_on_as_it_is() -> None:
    error = AuthenticationError("ada has to log in again")

    def factory(identity: str | None) -> openai.AsyncOpenAI:
        raise error

    with pytest.raises(AuthenticationError) as failed:
        await ClientPool(factory).get("ada")
    assert failed.value is error


async def test_who_stops_waiting_does_not_stop_the_others() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    calls: list[str | None] = []

    async def factory(identity: str | None) -> openai.AsyncOpenAI:
        calls.append(identity)
        begun.set()
        await go_on.wait()
        return made()

    clients = ClientPool(factory)
    first, second = asyncio.ensure_future(clients.get(None)), asyncio.ensure_future(clients.get(None))
    await begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go_on.set()
    assert await second is await clients.get(None)
    assert calls == [None]


# ---- the default factory


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> pytest.MonkeyPatch:
    """An environment without any login."""
    for name in list(os.environ):
        if name.startswith(("DATABRICKS_", "ARM_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    return monkeypatch


async def test_the_default_factory_knows_no_identities() -> None:
    with pytest.raises(ConfigurationError, match=r"Identity 'ada' was named.*client_factory"):
        await ClientPool(databricks_client).get("ada")


async def test_without_a_workspace_the_default_factory_says_what_to_set(nobody: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="Set DATABRICKS_HOST and DATABRICKS_TOKEN") as failed:
        await ClientPool(databricks_client).get(None)
    assert "\n" not in str(failed.value)


@asynccontextmanager
async def workspace(
    environment: pytest.MonkeyPatch, creates: list[Answer], retrieves: list[Answer]
) -> AsyncIterator[tuple[ScriptedService, SupervisorClient]]:
    """A workspace, and the client that the Databricks SDK makes for it."""
    async with serving(ScriptedService(creates, retrieves)) as service:
        environment.setenv("DATABRICKS_HOST", service.url)
        environment.setenv("DATABRICKS_TOKEN", TOKEN)
        yield service, await ClientPool(databricks_client).get(None)


async def created(client: SupervisorClient) -> ServiceResponse:
    return await client.create({"model": "m", "input": []}, idempotency_key="k", timeout_s=5)


async def test_a_job_runs_through_the_client_of_the_databricks_sdk(nobody: pytest.MonkeyPatch) -> None:
    long_id = "resp_" + "x" * 120
    answers = [response("queued", id=long_id)], [response("completed", message("42"), id=long_id)]
    async with workspace(nobody, *answers) as (service, client):
        first = await created(client)
        last = await client.retrieve(first.id, timeout_s=5)
    assert first.id == last.id == long_id
    assert last.status == "completed"
    (post,) = service.posts
    assert (post.path, post.headers["authorization"]) == (
        "/ai-gateway/mlflow/v1/responses",
        f"Bearer {TOKEN}",
    )
    assert service.gets[-1].path == f"/ai-gateway/mlflow/v1/responses/{long_id}"


@pytest.mark.parametrize(
    "answer",
    [refusal(503), refusal(409), Answer(drop="unanswered"), Answer(drop="unread"), Answer(body=b"<html>")],
)
async def test_the_client_of_the_databricks_sdk_repeats_no_post(
    answer: Answer, nobody: pytest.MonkeyPatch
) -> None:
    async with workspace(nobody, [answer], [answer]) as (service, client):
        with pytest.raises(OutcomeUnknown):
            await created(client)
        with pytest.raises(Transient):
            await client.retrieve("resp_1", timeout_s=5)
    assert len(service.posts) == 1


async def test_the_client_of_the_databricks_sdk_tells_refusals_and_absence_apart_from_the_unknown(
    nobody: pytest.MonkeyPatch,
) -> None:
    async with workspace(nobody, [refusal(429, f"not you, {TOKEN}")], []) as (_, client):
        with pytest.raises(NotAccepted) as overloaded:
            await created(client)
    with pytest.raises(NotAccepted) as absent:
        await created(client)
    assert overloaded.value.retryable
    assert absent.value.retryable
    assert "Cannot reach" in str(absent.value)
    assert TOKEN not in str(overloaded.value)


async def test_a_login_of_the_databricks_sdk_that_fails_proves_that_nothing_was_sent(
    nobody: pytest.MonkeyPatch,
) -> None:
    nobody.setattr("databricks.sdk.core.Config.authenticate", lambda self: 1 / 0)
    async with workspace(nobody, [response("queued")], [response()]) as (service, client):
        with pytest.raises(NotAccepted) as refused:
            await created(client)
        with pytest.raises(AuthenticationError, match="ZeroDivisionError"):
            await client.retrieve("resp_1", timeout_s=5)
    assert isinstance(refused.value.error, AuthenticationError)
    assert service.posts == []
