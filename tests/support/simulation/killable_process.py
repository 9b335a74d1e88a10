"""Processes that can be killed between any two of their effects, inside one process.

Everything that a process does to the world passes a gate: reads and writes of checkpoints and ledger,
requests, runs of functions. There it waits until somebody lets it go on. A process that is killed at its
gates has done what passed them and nothing else, and nothing that its clean-up code tries passes any more:
as with SIGKILL. Death after an effect but before its answer is death at the next gate, and cancelling after
an effect is :attr:`Verdict.HOLD`.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from databricks_supervisor.ledger import Effect, EffectKey, EffectKind, Ledger, NewTurn, Turn

T = TypeVar("T")

CURRENT: ContextVar[Process] = ContextVar("process")


class Killed(BaseException):
    """Raised wherever a dead process tries to act."""


class Verdict(enum.Enum):
    """What happens to an operation that waits at its gate."""

    GO = "it takes effect"
    HOLD = "it takes effect, and its answer does not come until its process is told to go on"
    LOST = "a request is lost on its way: the connection breaks"
    UNANSWERED = "a request takes effect, and its answer is lost"
    BROKEN = "a request takes effect, and a machine in between answers 503"
    UNREACHABLE = "no connection is made"
    OVERLOADED = "the service answers 429 and does nothing"


@dataclass(eq=False)
class Operation:
    """Something that a process is about to do.

    Attributes:
        kind: Which: ``post``, ``retrieve``, ``cancel``, ``function``, or the name of a method.
        verdict: Set when it may go on.
    """

    kind: str
    verdict: asyncio.Future[Verdict]


@dataclass(eq=False)
class Process:
    """A process, as the world sees it.

    Attributes:
        name: Its worker id.
        ran: Called with the id of each call of a function that it really runs.
        far: Whether it runs on another host, so that nobody here can tell that it is gone.
        dead: Whether it was killed.
        waiting: What waits at its gates, oldest first.
        held: What took effect and waits for its answer.
        done: Kinds of operations that took effect, in order.
    """

    name: str
    ran: Callable[[str], None]
    far: bool = False
    dead: bool = False
    waiting: list[Operation] = field(default_factory=list)
    held: list[asyncio.Future[None]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    async def act(self, kind: str, effect: Callable[[Verdict], Awaitable[T]]) -> T:
        """Wait at the gate, then do it."""
        loop: Any = asyncio.get_running_loop()
        if self.dead:
            raise Killed(self.name)
        operation = Operation(kind, loop.create_future())
        self.waiting.append(operation)
        try:
            verdict = await operation.verdict
        finally:
            if operation in self.waiting:
                self.waiting.remove(operation)
        if self.dead:
            raise Killed(self.name)
        loop.outside += 1
        try:
            result = await effect(verdict)
        finally:
            loop.outside -= 1
            self.done.append(kind)
        if verdict is Verdict.HOLD:
            answer = loop.create_future()
            self.held.append(answer)
            await answer
        if self.dead:
            raise Killed(self.name)
        return result

    async def run(self, call_id: str) -> None:
        """Run the body of a client-side function."""

        async def effect(_: Verdict) -> None:
            self.ran(call_id)

        await self.act("function", effect)

    def release(self, verdict: Verdict = Verdict.GO, *, newest: bool = False) -> str:
        """Let one operation that waits go on; its kind."""
        operation = self.waiting.pop(-1 if newest else 0)
        if not operation.verdict.done():
            operation.verdict.set_result(verdict)
        return operation.kind

    def let_go(self) -> None:
        """Let the answers that were held come."""
        held, self.held = self.held, []
        for answer in held:
            if not answer.done():
                answer.set_result(None)

    def kill(self) -> None:
        """As ``kill -9``."""
        self.dead = True
        for operation in self.waiting:
            if not operation.verdict.done():
                operation.verdict.set_exception(Killed(self.name))
        self.waiting.clear()
        for answer in self.held:
            if not answer.done():
                answer.set_exception(Killed(self.name))
        self.held.clear()


class GatedSaver(BaseCheckpointSaver[Any]):
    """The checkpoints that survive, as one process reaches them."""

    def __init__(self, process: Process, inner: BaseCheckpointSaver[Any]) -> None:
        super().__init__(serde=inner.serde)
        self.process, self.inner = process, inner

    @property
    def config_specs(self) -> list[Any]:
        return self.inner.config_specs

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self.inner.get_next_version(current, channel)

    async def aget_tuple(self, config: Any) -> CheckpointTuple | None:
        return await self.process.act("get_tuple", lambda _: self.inner.aget_tuple(config))

    async def alist(self, config: Any, **kwargs: Any) -> AsyncIterator[CheckpointTuple]:
        async def all_of_them(_: Verdict) -> list[CheckpointTuple]:
            return [found async for found in self.inner.alist(config, **kwargs)]

        for found in await self.process.act("list", all_of_them):
            yield found

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        return await self.process.act(
            "put", lambda _: self.inner.aput(config, checkpoint, metadata, new_versions)
        )

    async def aput_writes(
        self, config: Any, writes: Sequence[Any], task_id: str, task_path: str = ""
    ) -> None:
        await self.process.act(
            "put_writes", lambda _: self.inner.aput_writes(config, writes, task_id, task_path)
        )


class GatedLedger:
    """The ledger that survives, as one process reaches it.

    Args:
        process: Who uses it.
        inner: The ledger.
        opened: Called with every turn that is opened, at once.
    """

    def __init__(self, process: Process, inner: Ledger, opened: Callable[[NewTurn], Awaitable[None]]) -> None:
        self.process, self.inner, self._opened = process, inner, opened

    async def open_turn(self, turn: NewTurn, after: str | None = None) -> tuple[Turn, bool]:
        async def effect(_: Verdict) -> tuple[Turn, bool]:
            found, opened = await self.inner.open_turn(turn, after)
            if opened:
                await self._opened(turn)
            return found, opened

        return await self.process.act("open_turn", effect)

    async def get_turn(self, turn_id: str) -> Turn | None:
        return await self._do("get_turn", turn_id)

    async def latest_turn(self, thread: str, position: str) -> Turn | None:
        return await self._do("latest_turn", thread, position)

    async def open_turns(self, limit: int) -> list[Turn]:
        return await self._do("open_turns", limit)

    async def turns_with_effect(self, kind: EffectKind, id: str) -> list[Turn]:
        return await self._do("turns_with_effect", kind, id)

    async def attach_turn(self, turn_id: str, step: int | None) -> None:
        await self._do("attach_turn", turn_id, step)

    async def end_turn(self, turn_id: str) -> None:
        await self._do("end_turn", turn_id)

    async def mark_delivered(self, turn_id: str) -> None:
        await self._do("mark_delivered", turn_id)

    async def claim(self, key: EffectKey, worker: str) -> Effect:
        return await self._do("claim", key, worker)

    async def take_over(self, key: EffectKey, attempt: int, worker: str) -> Effect:
        return await self._do("take_over", key, attempt, worker)

    async def record(self, key: EffectKey, attempt: int, outcome: dict[str, Any]) -> bool:
        return await self._do("record", key, attempt, outcome)

    async def release(self, key: EffectKey, attempt: int) -> bool:
        return await self._do("release", key, attempt)

    async def get_effect(self, key: EffectKey) -> Effect | None:
        return await self._do("get_effect", key)

    async def effects(self, turn_id: str) -> list[Effect]:
        return await self._do("effects", turn_id)

    async def delete_thread(self, thread: str) -> None:
        await self._do("delete_thread", thread)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _do(self, name: str, *args: Any) -> Any:
        return await self.process.act(name, lambda _: getattr(self.inner, name)(*args))


class GatedTransport(httpx2.AsyncBaseTransport):
    """The network between one process and the service.

    Args:
        process: Who uses it.
        app: The service, as an ASGI application.
        sent: Called with each request that was or may have been sent, its kind first, and the answer to it.
    """

    def __init__(
        self,
        process: Process,
        app: Any,
        sent: Callable[[str, httpx2.Request, httpx2.Response | None], None],
    ) -> None:
        self.process, self._sent = process, sent
        self._inner = httpx2.ASGITransport(app=app)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        kind = "retrieve" if request.method == "GET" else "post"
        kind = "cancel" if request.url.path.endswith("/cancel") else kind

        async def effect(verdict: Verdict) -> httpx2.Response:
            if verdict is Verdict.UNREACHABLE:
                raise httpx2.ConnectError("no route", request=request)
            if verdict is Verdict.OVERLOADED:
                return httpx2.Response(429, json={"error_code": "REQUEST_LIMIT", "message": "slow down"})
            answer: httpx2.Response | None = None
            if verdict is not Verdict.LOST:
                raw = await self._inner.handle_async_request(request)
                answer = httpx2.Response(raw.status_code, headers=raw.headers, content=await raw.aread())
            self._sent(kind, request, answer)
            if verdict is Verdict.BROKEN:
                return httpx2.Response(503, text="upstream connect error")
            if answer is None or verdict is Verdict.UNANSWERED:
                raise httpx2.ReadError("connection reset", request=request)
            return answer

        return await self.process.act(kind, effect)
