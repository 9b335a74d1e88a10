"""A supervisor graph, a scripted service and a clock, for tests that run the nodes through the graph."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import openai
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from databricks_supervisor import Ledger, create_supervisor_graph
from databricks_supervisor.ledger import Effect, Turn
from tests.support.fake_time import FakeTime
from tests.support.scripted_service import Answer, ScriptedService, message, response, serving

CONFIG: RunnableConfig = {"configurable": {"thread_id": "thread"}}

QUEUED, RUNNING = response("queued"), response("in_progress")
DONE = response("completed", message("42"))
DROPPED = Answer(drop="unanswered")
"""The request arrived, and the connection broke before the answer to it."""

ANSWERED = ["How much?", "42"]
"""The texts of the thread when everything went well."""


class GraphHarness:
    """One thread of one graph.

    Attributes:
        service: What it talks to.
        time: Its clock.
        identities: The identities that clients were built for, in order.
        make_client: Builds a client of the service.
    """

    def __init__(self, service: ScriptedService, saver: Any, settings: dict[str, Any]) -> None:
        self.service, self.time, self.saver = service, FakeTime(), saver
        self.identities: list[str | None] = []
        self.make_client: Callable[[], openai.AsyncOpenAI] = service.client
        factory = settings.pop("client_factory", self._client)
        self.builder = create_supervisor_graph(
            **{"model": "m", "client_factory": factory, "time": self.time.injected(), **settings}
        )
        self.graph = self.builder.compile(checkpointer=saver)

    def _client(self, identity: str | None) -> openai.AsyncOpenAI:
        self.identities.append(identity)
        return self.make_client()

    async def ask(self, text: str = "How much?", **options: Any) -> list[BaseMessage]:
        """Ask a question; what the thread holds when the run ends."""
        return await self.run({"messages": [{"role": "user", "content": text}]}, **options)

    async def ask_and_cancel(self) -> None:
        """Ask a question, and cancel the run while its job is polled."""
        polled = asyncio.Event()
        self.time.on_sleep = lambda _: polled.set() if self.service.gets else None
        run = asyncio.ensure_future(self.ask())
        await polled.wait()
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        assert run.cancelled()
        self.time.on_sleep = None

    async def resume(self, answer: Any = None, **options: Any) -> list[BaseMessage]:
        """Go on, with the answer to an interrupt if there is one."""
        return await self.run(None if answer is None else Command(resume=answer), **options)

    async def run(self, input: Any, **options: Any) -> list[BaseMessage]:
        """Run the graph on the thread."""
        result = await self.graph.ainvoke(input, CONFIG, **options)
        messages: list[BaseMessage] = result["messages"]
        return messages

    async def values(self) -> dict[str, Any]:
        """The thread's state."""
        return (await self.graph.aget_state(CONFIG)).values

    async def job(self) -> dict[str, Any]:
        """The thread's job."""
        job: dict[str, Any] = (await self.values())["job"]
        return job

    async def texts(self) -> list[str]:
        """The texts of the thread's messages."""
        return [message.text for message in (await self.values())["messages"]]

    async def waits_at(self) -> tuple[str, ...]:
        """The nodes that would run next."""
        return (await self.graph.aget_state(CONFIG)).next

    async def interrupt(self) -> Any:
        """The value of the one pending interrupt."""
        (pending,) = (await self.graph.aget_state(CONFIG)).interrupts
        return pending.value

    async def ledger(self) -> Ledger:
        """The ledger that goes with the thread's checkpoints."""
        return await self.graph.parts.ledgers.resolve(self.saver)

    async def turn(self) -> Turn:
        """The thread's latest turn, as the ledger has it."""
        turn = await (await self.ledger()).latest_turn("thread", "")
        assert turn is not None
        return turn

    async def submission(self) -> Effect | None:
        """The submission of the latest turn's first round, as the ledger has it."""
        effects = await (await self.ledger()).effects((await self.turn()).turn_id)
        return next((effect for effect in effects if effect.key.kind == "submit"), None)


@asynccontextmanager
async def harness(
    creates: Iterable[Answer] = (response("queued"),),
    retrieves: Iterable[Answer] = (response("completed", message("42")),),
    cancels: Iterable[Answer] = (),
    *,
    saver: Any = None,
    **settings: Any,
) -> AsyncIterator[GraphHarness]:
    """A harness whose service runs while the block does; by default everything goes well."""
    async with serving(ScriptedService(creates, retrieves, cancels)) as service:
        yield GraphHarness(service, saver if saver is not None else InMemorySaver(), settings)
