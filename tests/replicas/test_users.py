"""On behalf of users: whose a thread is, with whose token the service is asked, and where no token ever is."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.replicas.conftest import NewClient
from tests.replicas.database import Database
from tests.replicas.responses_client import (
    PATIENCE_S,
    ResponsesClient,
    allow,
    new_thread,
    question,
    requests_in,
    text_of,
)
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.postgres import PostgresServer
from tests.support.server_process import ServerProcess

APP_TOKEN = "dapi0123456789abcdef0123456789abcdef"
MARK = "marked-token"
"""Part of every user's token."""

Login = Callable[..., ResponsesClient]


@pytest.fixture(scope="module")
def user_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of the server that acts on behalf of users."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="module")
def server(
    service: LocalSupervisor, user_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that acts on behalf of its users."""
    folder = tmp_path_factory.mktemp("users")
    env = {
        "SUPERVISOR_AUTH": "user",
        "DATABRICKS_TOKEN": APP_TOKEN,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'traces.sqlite'}",
    }
    with ServerProcess(folder / "server", service=service.url, state_url=user_url, env=env) as server:
        yield server


@pytest.fixture
def login(server: ServerProcess, new_client: NewClient) -> Login:
    """Makes a client as the Apps proxy makes one for a user, with a token of that user."""

    def make(user: str, token: str | None = None) -> ResponsesClient:
        headers = {"x_forwarded_user": user, "x_forwarded_email": f"{user}@example.com"}
        return new_client(server, x_forwarded_access_token=token or token_of(user), **headers)

    return make


def token_of(user: str) -> str:
    """A token of a user, recognisable wherever it turns up."""
    return jwt(user)


def jwt(subject: str) -> str:
    """A JSON Web Token, as far as anybody who sees one can tell."""
    return f"eyJhbGciOiJub25lIn0.{MARK}-{subject}.{hashlib.sha256(subject.encode()).hexdigest()}"


def digest_of(token: str) -> str:
    """What the service keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


def new_user(name: str) -> str:
    """A user whom nobody has seen."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def wait_for(what: Callable[[], Any]) -> Any:
    """Wait until something is there."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_without_a_token_nothing_is_let_in(
    server: ServerProcess, service: LocalSupervisor, login: Login, new_client: NewClient
) -> None:
    asked = f"Tokenless {new_thread()}"
    nobody = new_client(server, x_forwarded_user="ann")
    for headers in ({}, {"x-forwarded-access-token": ""}):
        refused = nobody.post({"input": asked}, headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "missing_user_token")
    assert service.submissions(asked)["count"] == 0
    id = login("ann").ask({"input": f"Seen {asked}"})["id"]
    assert nobody.http.get(f"/responses/{id}").status_code == 401
    assert nobody.http.get(f"/responses/{id}", params={"stream": "true"}).status_code == 401
    assert nobody.cancel(id).status_code == 401


def test_two_users_with_the_same_thread_name_have_two_threads_and_their_own_tokens(
    service: LocalSupervisor, login: Login
) -> None:
    thread = new_thread()
    users = new_user("ann"), new_user("bob")
    for user in users:
        body = {"input": f"Mine {user}", "custom_inputs": {"thread_id": thread}}
        found = login(user).ask(body)
        assert found["custom_outputs"]["thread_id"] == thread
        (job,) = service.submissions(f"Mine {user}")["jobs"]
        assert job["bearer"] == digest_of(token_of(user))
        assert len(service.job(job["id"])["request"]["input"]) == 1


def test_what_is_another_user_s_does_not_exist(
    service: LocalSupervisor, login: Login, database_of_users: Database
) -> None:
    ann, bob = login(new_user("ann")), login(new_user("bob"))
    thread = new_thread()
    asked = question(
        f"Private {thread}", approvals=[{"name": "publish", "server_label": "reports", "arguments": {}}]
    )
    first = ann.ask({"input": asked, "custom_inputs": {"thread_id": thread}})
    (request,) = requests_in(first)
    id = first["id"]
    assert bob.http.get(f"/responses/{id}").status_code == 404
    assert bob.http.get(f"/responses/{id}", params={"stream": "true"}).status_code == 404
    assert bob.cancel(id).status_code == 404
    assert bob.post({"input": "And?", "previous_response_id": id}).status_code == 404
    nothing = bob.http.get("/responses/resp_0000_0")
    theirs = bob.http.get(f"/responses/{id}")
    assert theirs.text.replace(id, "") == nothing.text.replace("resp_0000_0", "")
    refused = [
        bob.post({"input": [allow(request)]}),
        bob.post({"input": [allow(request)], "custom_inputs": {"thread_id": thread}}),
        bob.post({"input": [allow(request)], "previous_response_id": id}),
    ]
    assert [answer.status_code for answer in refused] == [400, 400, 404]
    assert service.submissions(f"Private {thread}")["count"] == 1
    assert not database_of_users.decided(request["id"])
    assert ann.get(id) == first


def test_a_user_s_idempotency_key_is_that_user_s_alone(service: LocalSupervisor, login: Login) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    asked = f"Same key {key['Idempotency-Key']}"
    found = [login(new_user(name)).ask({"input": asked}, key) for name in ("ann", "bob")]
    assert found[0]["id"] != found[1]["id"]
    assert service.submissions(asked)["count"] == 2


def test_a_token_that_ends_in_mid_job_keeps_the_job_and_a_fresh_one_goes_on_with_it(
    service: LocalSupervisor, login: Login
) -> None:
    user = new_user("ann")
    thread = new_thread()
    asked = f"Expired {thread}"
    body = {
        "input": question(asked, duration_s=3, reply="All the same."),
        "custom_inputs": {"thread_id": thread},
    }
    first = login(user)
    id = first.ask({**body, "background": True})["id"]
    (job,) = wait_for(lambda: service.submissions(asked)["jobs"])
    # The same user comes with a token that the service refuses by now.
    stale = login(user, f"wrong-{MARK}-expired")
    refused = stale.post(body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "authentication_error")
    assert MARK not in refused.text
    heard = stale.stream(body)
    assert heard.done
    assert (heard.id, heard.events[-1]["type"]) == (id, "error")
    assert MARK not in str(heard.events)
    fresh = login(user, jwt(f"fresh-{user}"))
    again = fresh.ask(body)
    assert (again["id"], text_of(again)) == (id, "All the same.")
    assert service.submissions(asked)["count"] == 1
    assert job["bearer"] == digest_of(token_of(user))


def test_a_follow_up_is_submitted_with_the_fresh_token(service: LocalSupervisor, login: Login) -> None:
    user = new_user("ann")
    asked = f"Follow up {new_thread()}"
    approvals = [{"name": "publish", "server_label": "reports", "arguments": {}}]
    first = login(user).ask({"input": question(asked, approvals=approvals)})
    (request,) = requests_in(first)
    fresh = jwt(f"fresher-{user}")
    login(user, fresh).ask({"input": [allow(request)], "previous_response_id": first["id"]})
    bearers = [job["bearer"] for job in service.submissions(asked)["jobs"]]
    assert bearers == [digest_of(token_of(user)), digest_of(fresh)]


def test_a_user_s_job_waits_for_that_user_when_the_server_starts_again(
    server: ServerProcess, service: LocalSupervisor, login: Login, database_of_users: Database
) -> None:
    ann, bob = new_user("ann"), new_user("bob")
    asked = f"Wait {new_thread()}"
    client = login(ann)
    id = client.ask({"input": question(asked, duration_s=1, reply="For you."), "background": True})["id"]
    (job,) = wait_for(lambda: service.submissions(asked)["jobs"])
    wait_for(lambda: service.job(job["id"])["polls"])
    server.kill()
    polls = service.job(job["id"])["polls"]
    server.start()
    # Another user's request, and more time than taking up has.
    login(bob).ask({"input": question(f"Meanwhile {new_thread()}", duration_s=4)})
    assert service.job(job["id"])["polls"] == polls
    assert not database_of_users.turns()[id.removeprefix("resp_")[:-2]]
    assert text_of(client.finished(id)) == "For you."
    (job,) = service.submissions(asked)["jobs"]
    assert job["bearer"] == digest_of(token_of(ann))


def test_no_token_is_in_anything_that_the_server_wrote(
    server: ServerProcess, service: LocalSupervisor, login: Login, database_of_users: Database
) -> None:
    user = new_user("ann")
    client = login(user)
    bodies: list[str] = []

    def ask(**behaviour: Any) -> None:
        body = {"input": question(f"Scan {uuid.uuid4().hex}", **behaviour)}
        bodies.append(client.post(body).text)
        bodies.append(str(client.stream(body).events))

    ask(reply="Fine.")
    ask(final_status="failed", error={"code": "x", "message": "y"}, items=[])
    ask(retrieve_errors=[401, 401, 403])
    said = f"No: Bearer {token_of(user)} is not good, {token_of(user)} neither, nor {APP_TOKEN}"
    refusals: dict[str, Any] = {
        "create_error_forever": {"status": 400, "code": "bad", "message": said},
        "retrieve_error_forever": {"status": 403, "code": "bad", "message": said},
        "error": {"code": "bad", "message": said},
    }
    for name, value in refusals.items():
        more = {"final_status": "failed"} if name == "error" else {}
        service.set_behaviour(**{name: value}, **more)
        try:
            body = {"input": f"Scan {name} {uuid.uuid4().hex}"}
            bodies.append(client.post(body).text)
            bodies.append(str(client.stream(body).events))
        finally:
            service.clear_behaviour()
    bodies.append(client.post({"input": "Last scan"}).text)
    bodies.append(login(user, f"wrong-{MARK}").post({"input": "Scan"}).text)
    bodies.append(client.post({"input": [{"type": MARK.upper()}]}).text)
    bodies.append(client.http.post("/responses", content=b"{").text)
    wait_for(lambda: traced(server))
    written = files_under(server.directory.parent)
    assert any(path.name == "server.log" for path in written)
    places: dict[str, bytes] = {
        "database": database_of_users.everything(),
        **{str(path): content for path, content in written.items()},
        **{f"body {number}": body.encode() for number, body in enumerate(bodies)},
    }
    assert b"Scan" in places["database"]
    secrets = [MARK.encode(), APP_TOKEN.encode()]
    found = {
        place: content[max(0, content.index(secret) - 100) :][:300]
        for place, content in places.items()
        for secret in secrets
        if secret in content
    }
    assert found == {}


def traced(server: ServerProcess) -> bool:
    """Whether the question after which nothing else is asked is in the traces."""
    written = files_under(server.directory.parent)
    return any(b"Last scan" in content for path, content in written.items() if "traces" in str(path))


def files_under(folder: Path) -> dict[Path, bytes]:
    """The bytes of all files."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def database_of_users(user_url: str) -> Database:
    """The database of the server that acts on behalf of users, to look into."""
    return Database(user_url)
