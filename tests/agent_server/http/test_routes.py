"""The routes of the whole app: whatever comes, no 500, errors in one shape, nothing that the page does not say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.items_strategies import any_items, contents, json_values, texts
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.postgres import PostgresServer
from tests.support.served import Served, serving_app

BUGS = ("unavailable", "ledger_unavailable", "internal_error")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def instant_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSupervisor]:
    """A service whose jobs are done at once."""
    with LocalSupervisor(tmp_path_factory.mktemp("service"), {"instant": True, "lenient": True}) as running:
        yield running


@pytest.fixture(scope="module", params=["postgres", pytest.param("sqlite", marks=pytest.mark.full)])
def server(
    request: pytest.FixtureRequest,
    instant_service: LocalSupervisor,
    postgres_server: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The app, with its state in a SQLite file or in Postgres."""
    folder: Path = tmp_path_factory.mktemp("state")
    with ExitStack() as open_, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DATABRICKS_HOST", instant_service.url)
        patch.setenv("DATABRICKS_TOKEN", "x")
        url = f"sqlite:///{folder}/state.sqlite"
        if request.param == "postgres":
            url = open_.enter_context(postgres_server.database())
        yield open_.enter_context(serving_app(backend="supervisor", state_url=url, tools="demonstration"))


class Page:
    """The OpenAPI page.

    Attributes:
        paths: What it says of each path.
    """

    def __init__(self, server: Served) -> None:
        self.paths: dict[str, Any] = server.http.get("/openapi.json").json()["paths"]


@pytest.fixture(scope="module")
def page(server: Served) -> Page:
    return Page(server)


def check(answer: httpx.Response, page: Page, route: str) -> None:
    """An answer is one that the page describes, and no mistake of the server."""
    described = page.paths[route][answer.request.method.lower()]["responses"]
    assert str(answer.status_code) in described, answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        check_events(answer)
        return
    body = json.loads(answer.content.decode(), parse_constant=pytest.fail)
    if answer.status_code == 200:
        assert body.keys() >= {"id", "object", "status", "output", "custom_outputs"}
        return
    assert body.keys() == {"error"}
    error = body["error"]
    assert all(isinstance(error[name], str) and error[name] for name in ("message", "type", "code"))
    assert error.get("param") is None or isinstance(error["param"], str)
    assert error["code"] not in BUGS, error


def check_events(answer: httpx.Response) -> None:
    """Events that end as they should."""
    lines = answer.content.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: "), parse_constant=pytest.fail) for line in lines[:-2]]
    assert not [event for event in events if event["type"] == "error" and event["code"] in BUGS]


OFTEN = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)

# ---- bodies

threads = st.sampled_from(["a", "b", "a/b ü🙂", "a\0", "", 3, None, "\ud83d", "../x", "x" * 1000, "%00"])
said = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "user", "system", "developer", "assistant", "tool"]),
    contents,
)
items = st.one_of(said, any_items)
tools = st.one_of(
    json_values,
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["function", "function", "web_search"])},
            optional={
                "name": st.sampled_from(["f", "g", "get_current_time", "a b", "", None, 3]),
                "parameters": st.one_of(st.just({"type": "object", "properties": {}}), json_values),
                "description": texts,
            },
        ),
        max_size=3,
    ),
)
fields = {
    "input": st.one_of(
        texts, st.lists(items, max_size=4), st.lists(said, min_size=1, max_size=4), json_values
    ),
    "stream": st.one_of(st.booleans(), st.booleans(), json_values),
    "background": st.one_of(st.booleans(), json_values),
    "custom_inputs": st.one_of(
        st.fixed_dictionaries({}, optional={"thread_id": threads, "session_id": threads}), json_values
    ),
    "context": st.one_of(st.fixed_dictionaries({}, optional={"conversation_id": threads}), json_values),
    "previous_response_id": st.one_of(st.none(), texts, st.just("resp_a_0")),
    "tools": tools,
    "metadata": json_values,
    "model": json_values,
    "temperature": json_values,
}
bodies = st.one_of(
    json_values,
    st.fixed_dictionaries(
        {"input": fields["input"]}, optional={key: fields[key] for key in fields if key != "input"}
    ),
    st.fixed_dictionaries({}, optional=fields),
)


@OFTEN
@given(body=bodies, route=st.sampled_from(["/responses", "/invocations"]))
def test_no_body_is_too_odd(server: Served, page: Page, body: Any, route: str) -> None:
    check(server.http.post(route, content=json.dumps(body).encode()), page, route)


@OFTEN
@given(raw=st.one_of(st.binary(), st.binary().map(lambda raw: b'{"input": "' + raw + b'"}')))
def test_no_byte_is_too_odd(server: Served, page: Page, raw: bytes) -> None:
    check(server.http.post("/responses", content=raw), page, "/responses")


def hello(**more: Any) -> bytes:
    return json.dumps({"input": [{"role": "user", "content": "Hi"}], **more}).encode()


def item(**fields: Any) -> bytes:
    return json.dumps({"input": [fields]}).encode()


NASTY: dict[str, bytes] = {
    "deep": b'{"input": [{"role": "user", "content": ' + b"[" * 90 + b"]" * 90 + b"}]}",
    "deeper": b'{"input": [{"role": "user", "content": ' + b"[" * 400 + b"]" * 400 + b"}]}",
    "near the limit of recursion": b'{"input": [{"role": "user", "content": '
    + b"[" * 980
    + b"]" * 980
    + b"}]}",
    "deepest": b"[" * 1_000_000,
    "NUL in a text": b'{"input": "a\\u0000b"}',
    "half a character in a text": b'{"input": "a\\ud83d"}',
    "NaN in a content": b'{"input": [{"role": "user", "content": [NaN, Infinity, -Infinity]}]}',
    "NaN in a part": b'{"input": [{"role": "user", "content": [{"type": "input_text", "text": "x", "n": NaN}]}]}',
    "1e999": b'{"input": [{"role": "user", "content": [1e999]}]}',
    "a huge integer": b'{"input": [{"role": "user", "content": [' + b"9" * 4000 + b"]}]}",
    "an integer that Python does not read": b'{"input": [{"role": "user", "content": ['
    + b"9" * 5000
    + b"]}]}",
    "1,000 items": json.dumps({"input": [{"role": "user", "content": f"{n}"} for n in range(1000)]}).encode(),
    "10,001 items": json.dumps({"input": [{"role": "user", "content": "x"}] * 10_001}).encode(),
    "one id on everything": json.dumps(
        {"input": [{"type": "message", "id": "x", "role": "user", "content": f"{n}"} for n in range(5)]}
    ).encode(),
    "call ids twice": json.dumps(
        {
            "input": [
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "1"},
                {"type": "function_call_output", "call_id": "c", "output": "2"},
            ]
        }
    ).encode(),
    "NUL in a call id": item(type="function_call_output", call_id="a\0b", output="x"),
    "NUL in an approval id": item(type="mcp_approval_response", approval_request_id="a\0b", approve=True),
    "half a character in an approval id": item(
        type="mcp_approval_response", approval_request_id="\ud83d", approve=True
    ),
    "a long approval id": item(type="mcp_approval_response", approval_request_id="x" * 100_000, approve=True),
    "an approval with everything odd": item(
        type="mcp_approval_response",
        id={"a": 1},
        approval_request_id="a",
        approve=True,
        reason={"b": float("nan")},
    ),
    "NUL in a previous id": hello(previous_response_id="resp_a\0_0"),
    "NUL in a thread": hello(custom_inputs={"thread_id": "a\0b"}),
    "a huge number in a tool": hello(
        tools=[{"type": "function", "name": "f", "parameters": {"type": "object", "x": 10**30}}]
    ),
    "half a character in a tool": hello(tools=[{"type": "function", "name": "f", "description": "\ud83d"}]),
    "NaN in a tool": hello(
        tools=[{"type": "function", "name": "f", "parameters": {"type": "object", "x": float("nan")}}]
    ),
    "a tool that the service has": hello(tools=[{"type": "function", "name": "get_current_time"}]),
    "another encoding": '{"input": "Grüß Gott"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"input": "Hi"}',
    "a field twice": b'{"input": "Hi", "input": [], "input": "Ho"}',
    "a large text": json.dumps({"input": "x" * 1_000_000}).encode(),
}


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("stream", [False, True])
def test_nasty_bodies(server: Served, page: Page, name: str, stream: bool) -> None:
    raw = NASTY[name]
    if stream and raw.startswith(b"{"):
        raw = b'{"stream": true, ' + raw[1:]
    check(server.http.post("/responses", content=raw), page, "/responses")


# ---- what the service says


FAULTS: dict[str, dict[str, Any]] = {
    "refused": {"create_error_forever": {"status": 400, "message": "No. half \0"}},
    "forbidden": {"create_error_forever": {"status": 403, "message": "No."}},
    "unknown": {"drop_create": "after"},
    "failed": {"final_status": "failed", "error": {"code": "half \0", "message": "half \0"}},
    "failed without a word": {"final_status": "failed"},
    "incomplete": {"final_status": "incomplete", "reply": "Part of it"},
    "cancelled": {"final_status": "cancelled"},
    "nothing at all": {"items": []},
    "odd items": {
        "items": [
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "half \0"}],
            },
            {"type": "mcp_call", "name": "half \0", "output": {"n": 10**30}},
            {"type": ["odd"], "value": "\0"},
            {"type": "message", "role": "assistant", "content": None},
            {"type": "function_call_output", "call_id": "never seen", "output": {"rows": [1]}},
        ]
    },
    "odd approvals": {
        "approvals": [{"name": "t", "server_label": "s", "arguments": {"n": 10**30, "t": "\0"}}]
    },
    "odd calls": {"calls": [{"name": "f", "arguments": {"n": 10**30, "t": "\0"}}]},
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("stream", [False, True])
def test_nothing_that_the_service_says_is_too_odd(
    server: Served, page: Page, name: str, stream: bool
) -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    question = f"Hi [[local: {json.dumps(FAULTS[name])}]]"
    thread = {"thread_id": f"{name} {stream}"}
    answer = server.ask({"input": question, "stream": stream, "tools": [tool], "custom_inputs": thread})
    check(answer, page, "/responses")
    again = server.ask({"input": "Hi", "custom_inputs": thread, "stream": stream})
    check(again, page, "/responses")


# ---- headers, paths, queries

values = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30),
    st.sampled_from(["true", "gzip", "application/json; charset=utf-16", "00-x-y-01", "x" * 5000]),
).map(lambda text: text.strip().encode("latin-1"))
headers = st.dictionaries(
    st.sampled_from(
        [
            *("idempotency-key", "x-forwarded-user", "x-forwarded-email", "x-forwarded-access-token"),
            *(
                "x-mlflow-return-trace-id",
                "traceparent",
                "tracestate",
                "content-type",
                "accept",
                "authorization",
            ),
            *("last-event-id", "x-request-id", "origin", "cookie"),
        ]
    ),
    values,
)


@OFTEN
@given(headers=headers, body=st.sampled_from(["Hi", "Ho"]), stream=st.booleans())
def test_no_header_is_too_odd(
    server: Served, page: Page, headers: dict[str, bytes], body: str, stream: bool
) -> None:
    raw = json.dumps({"input": body, "stream": stream}).encode()
    answer = server.http.post(
        "/responses", content=raw, headers=[(name.encode(), value) for name, value in headers.items()]
    )
    check(answer, page, "/responses")


names = st.one_of(
    st.text(st.characters(exclude_characters="/"), min_size=1).filter(lambda text: text not in (".", "..")),
    st.builds(
        lambda turn, index: f"resp_{turn}_{index}".replace("/", ""),
        st.text(),
        st.one_of(st.integers(), st.text()),
    ),
    st.sampled_from(
        ["resp_a\0b_0", "resp_x_0", "resp_x_00", "resp_x_٣", "resp_" + "x" * 5000 + "_0", "%00", "\n"]
    ),
)
queries = st.dictionaries(
    st.sampled_from(["stream", "starting_after", "include", "x"]),
    st.one_of(st.text(), st.sampled_from(["true", "-1", "0", "3", "9" * 30, "1e3", "NaN", "maybe"])),
)


@OFTEN
@given(name=names, query=queries, method=st.sampled_from(["GET", "CANCEL"]))
def test_no_id_and_no_query_is_too_odd(
    server: Served, page: Page, name: str, query: dict[str, str], method: str
) -> None:
    path = f"/responses/{quote(name.encode('utf-8', 'surrogatepass'), safe='')}"
    if method == "CANCEL":
        answer = server.http.post(f"{path}/cancel", params=query)
    else:
        answer = server.http.get(path, params=query)
    route = "/responses/{response_id}" + ("/cancel" if method == "CANCEL" else "")
    check(answer, page, route)
    assert answer.status_code in (400, 404)


@OFTEN
@given(query=queries)
def test_a_response_is_there_whatever_the_query(server: Served, page: Page, query: dict[str, str]) -> None:
    thread = server.ask({"input": "Hi", "custom_inputs": {"thread_id": "queries"}, "background": True})
    check(
        server.http.get(f"/responses/{thread.json()['id']}", params=query), page, "/responses/{response_id}"
    )


@pytest.mark.parametrize(
    "thread", ["a/b/../c", "ü🙂", "..", "/", "%2F", "'; DROP TABLE turns; --", "x" * 1000]
)
def test_a_thread_may_have_any_name_that_can_be_printed(server: Served, thread: str) -> None:
    first = server.ask({"input": "Hi", "custom_inputs": {"thread_id": thread}}).json()
    assert first["custom_outputs"]["thread_id"] == thread
    again = server.ask({"input": "Ho", "previous_response_id": first["id"]}).json()
    assert again["custom_outputs"]["thread_id"] == thread
    assert server.http.get(f"/responses/{first['id']}").json()["output"] == first["output"]


# ---- what the page says


def test_the_page_describes_the_routes(page: Page) -> None:
    described = {(method, path) for path, methods in page.paths.items() for method in methods}
    assert described >= {
        ("post", "/invocations"),
        ("post", "/responses"),
        ("get", "/responses/{response_id}"),
        ("post", "/responses/{response_id}/cancel"),
    }
    body = page.paths["/responses"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["input"]
    assert body["properties"].keys() >= {"input", "stream", "background", "previous_response_id", "tools"}


def test_the_page_has_every_status_of_an_error(page: Page) -> None:
    from agent_server.http.errors import _BY_CLASS

    statuses = {str(status) for _, status, _ in _BY_CLASS} | {"200", "400", "404", "409", "422", "429", "503"}
    for path in ("/invocations", "/responses", "/responses/{response_id}", "/responses/{response_id}/cancel"):
        for described in page.paths[path].values():
            assert described["responses"].keys() >= statuses


def test_paths_and_methods_that_do_not_exist_are_said_to(server: Served) -> None:
    for method, path, status in [
        ("GET", "/responses", 405),
        ("DELETE", "/responses/resp_x_0", 405),
        ("GET", "/responses/a/b", 404),
        ("GET", "/nothing", 404),
    ]:
        answer = server.http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
