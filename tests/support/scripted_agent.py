"""A scripted service of background responses, over HTTP on 127.0.0.1, in the tests' own process.

Each :class:`ScriptedAgent` is a service of its own: it keeps the body of every POST, counts jobs, and answers
what its script says. One server carries them all.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
from langchain_core.runnables import RunnableConfig

from databricks_supervisor import Time, create_supervisor_graph
from databricks_supervisor.compiled import SupervisorGraph

Item = dict[str, Any]

CLOCK_START = 1_800_000_000.0


@dataclass
class Plan:
    """What a job does.

    Attributes:
        output: Its own items when it has ended.
        status: The status that it ends with.
        polls: How many polls see it in progress.
        held: It stays in progress until :meth:`ScriptedAgent.release`.
        error: The response's ``error``.
    """

    output: list[Item]
    status: str = "completed"
    polls: int = 1
    held: bool = False
    error: Any = None


Script = Callable[[list[Item], int], "Plan | list[Item]"]
"""Given the input of a create and the number of the job (1 for the first), what the job does."""


def message(text: str, id: str | None = None) -> Item:
    """An assistant's message item (its id is filled in by the agent)."""
    return {
        "type": "message",
        "id": id,
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }


def approval(id: str, name: str = "web-search", label: str = "you_dot_com", **arguments: Any) -> Item:
    """An approval request item (docs/wire.md: Approvals)."""
    return {
        "type": "mcp_approval_request",
        "id": id,
        "name": name,
        "server_label": label,
        "arguments": json.dumps(arguments),
    }


def call(id: str, name: str, arguments: Any = None) -> Item:
    """A function call item."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return {
        "type": "function_call",
        "id": f"fc_{id}",
        "call_id": id,
        "name": name,
        "arguments": text,
        "status": "completed",
    }


def output(id: str, text: str) -> Item:
    """The output item of a call."""
    return {"type": "function_call_output", "call_id": id, "output": text}


def said(item: Item) -> str:
    """The text of a message item."""
    content = item.get("content")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or [])


def asked(items: Sequence[Item]) -> str:
    """The text of the last message of a user."""
    return next((said(item) for item in reversed(items) if item.get("role") == "user"), "")


def answer(items: list[Item], number: int) -> list[Item]:
    """The simplest script: one message that names the question."""
    return [message(f"Answer to: {asked(items)}")]


def after_question(items: Sequence[Item]) -> list[Item]:
    """What the input holds after the last message of a user: the follow-up."""
    last = max((n for n, item in enumerate(items) if item.get("role") == "user"), default=-1)
    return list(items[last + 1 :])


def first_asks(*requests: Item, then: Script = answer) -> Script:
    """A script whose first job of each question asks for these approvals and calls.

    The follow-up is the service's answer to it: an output for each approval, and a message that tells them.
    A follow-up that leaves one unanswered is answered with a message that says so.
    """

    def script(items: list[Item], number: int) -> Plan | list[Item]:
        news = after_question(items)
        decided = {i["approval_request_id"]: i for i in news if i["type"] == "mcp_approval_response"}
        outputs = {i["call_id"]: i for i in news if i["type"] == "function_call_output"}
        if not decided and not outputs:
            return [dict(request) for request in requests]
        made: list[Item] = []
        told: list[str] = []
        for request in requests:
            if request["type"] == "mcp_approval_request":
                decision = decided.get(request["id"][:64])
                if decision is None:
                    told.append(f"{request['id']}: unanswered")
                    continue
                verdict = "done" if decision["approve"] else f"refused ({decision.get('reason', '')})"
                made.append(output(request["id"], verdict))
                told.append(f"{request['id']}: {verdict}")
            else:
                found = outputs.get(request["call_id"])
                told.append(f"{request['call_id']}: {found['output'] if found else 'no output'}")
        return [*made, message("; ".join(told))]

    return script


@dataclass
class _Job:
    id: str
    input: list[Item]
    plan: Plan
    polls: int = 0
    cancelled: bool = False


@dataclass
class ScriptedAgent:
    """One scripted service.

    Attributes:
        script: What jobs do.
        echo: Whether the output repeats the history of the input (docs/wire.md: Retrieve).
        cancels: Whether it honours ``cancel``.
        direct: Answer in the process, without a socket (for generated matrices).
        bodies: Body of every POST that created a job.
        cancelled: Ids of the jobs that were cancelled.
        fail_create: Status codes to answer the next creates with, instead of creating a job.
    """

    script: Script = answer
    echo: bool = False
    cancels: bool = True
    direct: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    polled: int = 0
    cancelled: list[str] = field(default_factory=list)
    cancel_asked: list[str] = field(default_factory=list)
    fail_create: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._free = False
        self.number = _server().add(self)

    # ---- what a test looks at

    @property
    def jobs(self) -> int:
        """How many jobs were created."""
        return len(self.bodies)

    @property
    def inputs(self) -> list[list[Item]]:
        """The input of every create."""
        return [body["input"] for body in self.bodies]

    @property
    def questions(self) -> list[str]:
        """The question of every create."""
        return [asked(items) for items in self.inputs]

    def decisions(self, create: int = -1) -> dict[str, bool]:
        """What a create says about approvals, by id."""
        return {
            item["approval_request_id"]: item["approve"]
            for item in self.inputs[create]
            if item["type"] == "mcp_approval_response"
        }

    def all_decisions(self) -> list[tuple[str, bool]]:
        """What all creates say about approvals, in order: each decision is sent once."""
        return [pair for create in range(len(self.inputs)) for pair in self.decisions(create).items()]

    def outputs(self, create: int = -1) -> dict[str, str]:
        """The function outputs in a create, by call id."""
        return {
            item["call_id"]: item["output"]
            for item in self.inputs[create]
            if item["type"] == "function_call_output"
        }

    def release(self) -> None:
        """Let every job that is held go on, now and later."""
        self._free = True

    # ---- how the graph reaches it

    def client(self, identity: str | None = None) -> openai.AsyncOpenAI:
        """A ``client_factory``."""
        if self.direct:
            http: Any = httpx2.AsyncClient(transport=httpx2.MockTransport(self._direct))
            return openai.AsyncOpenAI(base_url="http://scripted/v1", api_key="x", http_client=http)
        url = f"http://127.0.0.1:{_server().port}/{self.number}/v1"
        return openai.AsyncOpenAI(base_url=url, api_key="x")

    def graph(self, **settings: Any) -> SupervisorGraph:
        """A supervisor of this service, on injected time."""
        given = {"model": "m", "client_factory": self.client, "time": instant(), **settings}
        return create_supervisor_graph(**given)

    def handle(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Answer a request; ``path`` is relative to the base URL."""
        with self._lock:
            if method == "POST" and path == "/responses":
                return self._create(body, headers)
            id, _, verb = path.removeprefix("/responses/").partition("/")
            job = self._jobs.get(id)
            if job is None:
                return 404, {"error": {"code": "not_found", "message": f"No response {id}"}}
            if verb == "cancel":
                return self._cancel(job)
            return 200, self._retrieve(job)

    async def _direct(self, request: Any) -> Any:
        body = json.loads(request.content) if request.content else None
        path = request.url.path.removeprefix("/v1")
        status, reply = self.handle(request.method, path, body, request.headers)
        return httpx2.Response(status, json=reply)

    def _create(self, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        if self.fail_create:
            code = self.fail_create.pop(0)
            return code, {"error": {"code": str(code), "message": "as scripted"}}
        assert body["background"] is True
        assert body["stream"] is False
        self.bodies.append(body)
        self.keys.append(headers.get("idempotency-key", ""))
        number = len(self.bodies)
        planned = self.script(body["input"], number)
        plan = planned if isinstance(planned, Plan) else Plan(planned)
        job = _Job(f"resp_{self.number}_{number}", body["input"], plan)
        for n, item in enumerate(plan.output):
            if item.get("type") != "function_call_output" and not item.get("id"):
                item["id"] = f"item_{self.number}_{number}_{n}"
        self._jobs[job.id] = job
        return 200, {"id": job.id, "object": "response", "status": "queued", "output": []}

    def _retrieve(self, job: _Job) -> dict[str, Any]:
        job.polls += 1
        self.polled += 1
        if job.cancelled:
            return {"id": job.id, "status": "cancelled", "output": []}
        if (job.plan.held and not self._free) or job.polls <= job.plan.polls:
            return {"id": job.id, "status": "in_progress", "output": []}
        repeated = [item for item in job.input if _is_repeated(item)] if self.echo else []
        reply = {"id": job.id, "status": job.plan.status, "output": [*repeated, *job.plan.output]}
        return reply if job.plan.error is None else {**reply, "error": job.plan.error}

    def _cancel(self, job: _Job) -> tuple[int, Any]:
        self.cancel_asked.append(job.id)
        if not self.cancels:
            return 404, {"error": {"code": "not_found", "message": "no such endpoint"}}
        job.cancelled = True
        self.cancelled.append(job.id)
        return 200, {"id": job.id, "status": "cancelled", "output": []}


def instant(clock: Callable[[], float] = lambda: CLOCK_START) -> Time:
    """Time that nobody waits for; the clock stands still."""

    async def sleep(_seconds: float) -> None:
        await asyncio.sleep(0.001)

    return Time(now=clock, sleep=sleep, random=lambda: 0.5)


async def until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Wait until it holds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.002)


def _is_repeated(item: Item) -> bool:
    if item["type"] == "message":
        return bool(item["role"] == "assistant")
    return item["type"] in ("function_call", "function_call_output")


class _Server:
    """HTTP/1.1 for all agents, on a thread with a loop of its own: sync callers block theirs."""

    def __init__(self) -> None:
        self._agents: list[ScriptedAgent] = []
        started: Future[int] = Future()
        threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True).start()
        self.port = started.result()

    def add(self, agent: ScriptedAgent) -> int:
        self._agents.append(agent)
        return len(self._agents) - 1

    async def _serve(self, started: Future[int]) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        started.set_result(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._exchange(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (h.partition(":") for h in head[1:] if h)
        }
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        number, _, path = target.lstrip("/").partition("/v1")
        body = json.loads(raw) if raw else None
        status, reply = self._agents[int(number)].handle(method, path, body, headers)
        text = json.dumps(reply).encode()
        writer.write(
            f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n\r\n".encode()
            + text
        )
        await writer.drain()


_lock = threading.Lock()
_servers: list[_Server] = []


def _server() -> _Server:
    with _lock:
        if not _servers:
            _servers.append(_Server())
        return _servers[0]


def question(text: str = "How much?") -> dict[str, Any]:
    """Input with one question."""
    return {"messages": [{"role": "user", "content": text}]}


def thread(id: str = "t") -> RunnableConfig:
    """Config of a thread."""
    return {"configurable": {"thread_id": id}}


def texts(state: Mapping[str, Any], kind: str | None = None) -> list[str]:
    """Texts of a state's messages; of one kind (``human``, ``ai``, ``tool``) only if one is named."""
    return [m.text for m in state["messages"] if kind is None or m.type == kind]
