"""The way of the polls: bounded, fair, safe to cancel, and only where it asks as the client itself would."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import openai
import pytest

from databricks_supervisor.client import poll_transport as transport
from databricks_supervisor.client.credentials import SharedCredentials
from databricks_supervisor.client.failures import NotAccepted, Transient
from databricks_supervisor.client.poll_transport import PollTransport
from databricks_supervisor.client.pool import MANY_CLIENTS, MAX_IDLE_S, MAX_IDLE_WHEN_MANY_S, ClientPool
from databricks_supervisor.client.responses import SupervisorClient
from databricks_supervisor.errors import AuthenticationError
from tests.support.scripted_service import API_KEY, Answer, ScriptedService, response, serving

RUNNING = response("in_progress")


class Crowd(ScriptedService):
    """A service that knows how many ask at once, over how many connections, and answers when it is told to."""

    def __init__(self, go_on: asyncio.Event | None = None) -> None:
        super().__init__([response("queued")], [Answer(body=RUNNING.body, until=go_on)])
        self.now = self.most = self.open = self.connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.connections += 1
        try:
            await super().handle(reader, writer)
        finally:
            self.open -= 1

    def _next(self, method: str, path: str) -> Answer:
        self.now += 1
        self.most = max(self.most, self.now)
        return super()._next(method, path)


async def until(condition: Callable[[], bool]) -> None:
    """Let things go on until something holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def poll(client: SupervisorClient, number: int = 1) -> asyncio.Task[Any]:
    return asyncio.ensure_future(client.retrieve(f"resp_{number}", timeout_s=10))


# ---- bounded


async def test_polls_under_way_are_bounded_and_all_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_POLLS", 4)
    go_on = asyncio.Event()
    async with serving(Crowd(go_on)) as service:
        client = SupervisorClient(service.client())
        polls = [poll(client, number) for number in range(40)]
        await until(lambda: len(service.requests) == 4)
        await asyncio.sleep(0.05)
        assert len(service.requests) == 4
        go_on.set()
        await asyncio.gather(*polls)
    assert len(service.requests) == 40
    assert service.connections <= 4


async def test_places_are_given_in_the_order_in_which_they_were_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "MAX_POLLS", 1)
    async with serving(Crowd()) as service:
        client = SupervisorClient(service.client())
        await asyncio.gather(*(poll(client, number) for number in range(20)))
        asked = [request.path.rpartition("_")[2] for request in service.gets]
    assert asked == [str(number) for number in range(20)]


async def test_connections_are_kept_for_the_next_poll() -> None:
    async with serving(Crowd()) as service:
        client = SupervisorClient(service.client())
        for _ in range(5):
            await poll(client)
        assert service.connections == 1


async def test_a_poll_that_is_cancelled_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_POLLS", 2)
    go_on = asyncio.Event()
    async with serving(Crowd(go_on)) as service:
        client = SupervisorClient(service.client())
        stuck, waiting = [poll(client) for _ in range(2)], [poll(client) for _ in range(2)]
        await until(lambda: len(service.requests) == 2)
        for task in (stuck[0], waiting[0]):
            task.cancel()
        await until(lambda: len(service.requests) == 3)
        go_on.set()
        await asyncio.gather(stuck[1], waiting[1], poll(client), poll(client))
        assert stuck[0].cancelled()
        assert waiting[0].cancelled()


async def test_a_poll_that_fails_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_POLLS", 1)
    async with serving(ScriptedService([], [Answer(drop="unanswered")] * 4 + [RUNNING])) as service:
        client = SupervisorClient(service.client())
        for _ in range(2):
            with pytest.raises(Transient):
                await poll(client)
        await poll(client)


async def test_a_service_that_does_not_answer_is_given_up_after_the_time_out() -> None:
    async with serving(Crowd(asyncio.Event())) as service:
        with pytest.raises(Transient, match="TimeoutError"):
            await SupervisorClient(service.client()).retrieve("resp_1", timeout_s=0.05)


async def test_through_the_sdk_fewer_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("databricks_supervisor.client.responses.MAX_SDK_REQUESTS", 3)
    go_on = asyncio.Event()
    async with serving(Crowd(go_on)) as service:
        client = SupervisorClient(service.client(default_query={"its own": "way"}))
        polls = [poll(client, number) for number in range(20)]
        await until(lambda: len(service.requests) == 3)
        await asyncio.sleep(0.05)
        assert len(service.requests) == 3
        go_on.set()
        await asyncio.gather(*polls)
    assert service.connections <= 3


async def test_a_post_that_finds_no_place_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("databricks_supervisor.client.responses.MAX_SDK_REQUESTS", 1)
    go_on, reached = asyncio.Event(), asyncio.Event()
    answer = Answer(body=RUNNING.body, until=go_on, reached=reached)
    async with serving(ScriptedService([answer], [RUNNING])) as service:
        client = SupervisorClient(service.client())

        async def create(timeout_s: float) -> Any:
            return await client.create({"model": "m"}, idempotency_key="k", timeout_s=timeout_s)

        first = asyncio.ensure_future(create(10))
        await reached.wait()
        with pytest.raises(NotAccepted) as refused:
            await create(0.05)
        assert refused.value.retryable
        assert (await poll(client)).status == "in_progress", "a poll has a place of its own"
        go_on.set()
        await first
        await create(5)
        assert len(service.posts) == 2


# ---- closed


async def test_connections_are_closed_when_nobody_has_the_client_any_more() -> None:
    async with serving(Crowd()) as service:
        client = SupervisorClient(service.client())
        await poll(client)
        assert service.open == 1
        del client
        gc.collect()
        await until(lambda: service.open == 0)


async def test_a_client_in_use_outlives_that_it_was_let_go_of() -> None:
    go_on = asyncio.Event()
    async with serving(Crowd(go_on)) as service:
        clients = ClientPool(lambda identity: service.client())
        client = await clients.get("ada")
        under_way = poll(client)
        await until(lambda: len(service.requests) == 1)
        clients.invalidate("ada", client)
        del client
        gc.collect()
        go_on.set()
        assert (await under_way).status == "in_progress"


def test_a_loop_that_ends_leaves_no_connection_and_no_complaint(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    async def one_run() -> SupervisorClient:
        async with serving(Crowd()) as service:
            client = SupervisorClient(service.client())
            await poll(client)
            return client

    with caplog.at_level(logging.DEBUG):
        client = asyncio.run(one_run())
        del client
        gc.collect()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert not [w for w in recwarn if "nclosed" in str(w.message)]


async def test_clients_that_nobody_asks_for_any_more_are_let_go_of() -> None:
    now = [0.0]
    async with serving(Crowd()) as service:
        clients = ClientPool(lambda identity: service.client(), clock=lambda: now[0])
        idle, busy = await clients.get("idle"), await clients.get("busy")
        now[0] = MAX_IDLE_S
        assert await clients.get("busy") is busy
        now[0] += 1
        await clients.get("new")
        assert await clients.get("busy") is busy
        assert await clients.get("idle") is not idle


async def test_where_there_are_many_they_are_let_go_of_sooner() -> None:
    now = [0.0]
    async with serving(Crowd()) as service:
        clients = ClientPool(lambda identity: service.client(), clock=lambda: now[0])
        many = [await clients.get(f"user-{number}") for number in range(MANY_CLIENTS)]
        now[0] = MAX_IDLE_WHEN_MANY_S + 1
        assert await clients.get("user-0") is many[0]
        await clients.get("one more")
        assert await clients.get("user-0") is many[0]
        assert await clients.get("user-1") is not many[1]


async def test_one_that_was_refused_does_not_take_a_newer_one_with_it() -> None:
    async with serving(Crowd()) as service:
        clients = ClientPool(lambda identity: service.client())
        stale = await clients.get("ada")
        clients.invalidate("ada", stale)
        fresh = await clients.get("ada")
        clients.invalidate("ada", stale)
        assert await clients.get("ada") is fresh


# ---- the same as the client itself


def sdk(http: Any = None, key: Any = API_KEY, **options: Any) -> openai.AsyncOpenAI:
    http = http or httpx2.AsyncClient(verify=False, trust_env=False)
    return openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key=key, http_client=http, **options)


async def key_of_a_function() -> str:
    return API_KEY


async def hook(request: Any) -> None:
    return None


OWN_WAYS: dict[str, Callable[[], openai.AsyncOpenAI]] = {
    "a transport": lambda: sdk(httpx2.AsyncClient(transport=httpx2.MockTransport(lambda request: None))),  # type: ignore[arg-type, return-value]
    "a proxy": lambda: sdk(httpx2.AsyncClient(proxy="http://127.0.0.1:9", verify=False)),
    "a proxy for some": lambda: sdk(
        httpx2.AsyncClient(mounts={"http://": httpx2.AsyncHTTPTransport(verify=False)}, verify=False)
    ),
    "hooks": lambda: sdk(httpx2.AsyncClient(event_hooks={"request": [hook]}, verify=False)),
    "an auth": lambda: sdk(httpx2.AsyncClient(auth=("ada", "secret"), verify=False)),
    "cookies": lambda: sdk(httpx2.AsyncClient(cookies={"a": "b"}, verify=False)),
    "parameters": lambda: sdk(httpx2.AsyncClient(params={"a": "b"}, verify=False)),
    "HTTP/2": lambda: sdk(httpx2.AsyncClient(transport=_http2())),
    "a socket": lambda: sdk(httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds="/x", verify=False))),
    "a query": lambda: sdk(default_query={"api-version": "1"}),
    "a header that authorises": lambda: sdk(default_headers={"Authorization": "Basic x"}),
    "a key that a function makes": lambda: sdk(key=key_of_a_function),
    "a class": lambda: type("Mine", (openai.AsyncOpenAI,), {})(base_url="http://127.0.0.1:9", api_key="x"),
    "a key that cannot be sent": lambda: sdk(key="a\nb"),
}


def _http2() -> httpx2.AsyncHTTPTransport:
    made = httpx2.AsyncHTTPTransport(verify=False)
    made._pool._http2 = True  # What `http2=True` sets, which needs one more package.
    return made


@pytest.mark.parametrize("make", OWN_WAYS.values(), ids=OWN_WAYS.keys())
async def test_a_client_with_a_way_of_its_own_is_used_as_it_is(
    make: Callable[[], openai.AsyncOpenAI],
) -> None:
    assert PollTransport.of(make()) is None


async def test_a_plain_client_gives_its_polls_away() -> None:
    assert PollTransport.of(sdk()) is not None
    assert PollTransport.of(sdk(httpx.AsyncClient(verify=False, trust_env=False))) is not None


async def test_a_proxy_of_the_environment_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert PollTransport.of(sdk(httpx2.AsyncClient(verify=False))) is None


async def test_a_client_with_a_way_of_its_own_still_polls() -> None:
    async with serving(Crowd()) as service:
        client = SupervisorClient(service.client(default_query={"api-version": "1"}))
        assert (await poll(client)).status == "in_progress"
        assert service.gets[0].path.endswith("?api-version=1")


async def test_the_clients_own_headers_go_along() -> None:
    async with serving(Crowd()) as service:
        await poll(SupervisorClient(service.client(default_headers={"X-Team": "blue"})))
        sent = service.gets[0].headers
    assert sent["x-team"] == "blue"
    assert sent["authorization"] == f"Bearer {API_KEY}"
    assert sent["accept"] == "application/json"


async def test_a_key_that_is_changed_is_the_next_polls_key() -> None:
    async with serving(Crowd()) as service:
        made = service.client()
        client = SupervisorClient(made)
        await poll(client)
        made.api_key = "another"
        await poll(client)
        assert service.gets[1].headers["authorization"] == "Bearer another"


async def test_a_redirect_is_followed_as_the_client_follows_it() -> None:
    async with serving(Crowd()) as target:
        moved = Answer(307, {}, {"location": f"{target.url}/v1/responses/resp_1"})
        async with serving(ScriptedService([], [moved])) as service:
            made = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=API_KEY)
            assert (await poll(SupervisorClient(made))).status == "in_progress"
        assert "authorization" not in target.gets[0].headers, "another origin"


async def test_a_certificate_that_the_client_does_not_trust_is_not_trusted() -> None:
    made = sdk(httpx2.AsyncClient(verify=ssl.create_default_context(), trust_env=False))
    polls = PollTransport.of(made)
    assert polls is not None
    session = await polls._open()
    assert session.connector is not None
    assert session.connector._ssl is made._client._transport._pool._ssl_context  # type: ignore[attr-defined]


def test_no_repr_shows_a_credential() -> None:
    answer = transport.PollResponse(
        200, b"", {}, "OK", transport.Request({"authorization": f"Bearer {API_KEY}"})
    )
    shared = SharedCredentials(lambda: {"Authorization": f"Bearer {API_KEY}"})
    assert API_KEY not in repr(answer) + repr(shared) + str(vars(SupervisorClient(sdk()))) + repr(
        answer.request
    )


# ---- credentials


class BearerAuth(httpx.Auth):
    """As Databricks' own: asks on the event loop."""

    def __init__(self, get_headers_func: Callable[[], dict[str, str]]) -> None:
        self.get_headers_func = get_headers_func

    def auth_flow(self, request: httpx.Request) -> Any:
        request.headers["Authorization"] = self.get_headers_func()["Authorization"]
        yield request


class Login:
    """Says which thread asked it, and how often."""

    def __init__(self, error: Exception | None = None) -> None:
        self.threads: list[threading.Thread] = []
        self.error = error

    def __call__(self) -> dict[str, str]:
        self.threads.append(threading.current_thread())
        time.sleep(0.02)
        if self.error is not None:
            raise self.error
        return {"Authorization": f"Bearer token-{len(self.threads)}"}


@asynccontextmanager
async def authorised(login: Login) -> AsyncIterator[tuple[ScriptedService, SupervisorClient]]:
    async with serving(Crowd()) as service:
        http = httpx.AsyncClient(auth=BearerAuth(login), verify=False, trust_env=False)
        made = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="x", http_client=http)  # type: ignore[arg-type]
        yield service, SupervisorClient(made)


async def test_credentials_are_asked_for_off_the_event_loop_once_for_all_who_wait() -> None:
    login = Login()
    async with authorised(login) as (service, client):
        await asyncio.gather(*(poll(client) for _ in range(30)))
        await client.create({"model": "m"}, idempotency_key="k", timeout_s=5)
    assert len(login.threads) == 1
    assert login.threads[0] is not threading.current_thread()
    assert {request.headers["authorization"] for request in service.requests} == {"Bearer token-1"}


async def test_credentials_are_asked_for_anew_after_a_while() -> None:
    now, login = [0.0], Login()
    shared = SharedCredentials(login, clock=lambda: now[0])
    first = await shared.authenticate()
    now[0] = 9.9
    assert await shared.authenticate() == first
    now[0] = 10.1
    assert await shared.authenticate() != first


async def test_who_stops_waiting_for_credentials_does_not_stop_the_others() -> None:
    shared = SharedCredentials(Login())
    first, second = (asyncio.ensure_future(shared.authenticate()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second)["Authorization"] == "Bearer token-1"
    assert first.cancelled()


async def test_credentials_that_cannot_be_obtained_are_asked_for_again() -> None:
    login = Login(RuntimeError("the token service is away"))
    async with authorised(login) as (service, client):
        for _ in range(2):
            with pytest.raises(AuthenticationError, match="the token service is away"):
                await poll(client)
        login.error = None
        await poll(client)
    assert len(service.gets) == 1


def test_credentials_are_shared_between_loops() -> None:
    login = Login()
    shared = SharedCredentials(login)
    assert asyncio.run(_headers(shared)) == asyncio.run(_headers(shared))
    assert len(login.threads) == 1


async def _headers(shared: SharedCredentials) -> Any:
    return await shared.authenticate()
