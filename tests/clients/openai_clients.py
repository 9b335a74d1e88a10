"""OpenAI's two clients behind one face, so that each test runs with both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response

Events = list[Any]
T = TypeVar("T")


class Client(Protocol):
    """What clients of the Responses API do; every keyword is handed on to the SDK."""

    async def create(self, **given: Any) -> Response:
        """`responses.create`."""
        ...

    async def events(self, **given: Any) -> Events:
        """The events of `responses.create(stream=True)`."""
        ...

    async def streamed(self, **given: Any) -> tuple[Events, Response]:
        """The events of the `responses.stream` helper, and its final response."""
        ...

    async def first_events(self, count: int, **given: Any) -> Events:
        """The first events of `responses.create(stream=True)`; then the client goes away."""
        ...

    async def retrieve(self, id: str) -> Response:
        """`responses.retrieve`."""
        ...

    async def events_after(self, id: str, after: int | None = None) -> Events:
        """The events of `responses.retrieve(stream=True)`."""
        ...

    async def cancel(self, id: str) -> Response:
        """`responses.cancel`."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


class Blocking:
    """`openai.OpenAI`, in a thread."""

    def __init__(self, url: str, **options: Any) -> None:
        self._client = OpenAI(base_url=url, api_key="unused", **options)

    async def create(self, **given: Any) -> Response:
        return await self._call(self._client.responses.create, **given)

    async def events(self, **given: Any) -> Events:
        return await self._call(lambda: list(self._client.responses.create(stream=True, **given)))

    async def streamed(self, **given: Any) -> tuple[Events, Response]:
        def run() -> tuple[Events, Response]:
            with self._client.responses.stream(**given) as stream:
                return list(stream), stream.get_final_response()

        return await self._call(run)

    async def first_events(self, count: int, **given: Any) -> Events:
        def run() -> Events:
            with self._client.responses.create(stream=True, **given) as stream:
                return [next(stream) for _ in range(count)]

        return await self._call(run)

    async def retrieve(self, id: str) -> Response:
        return await self._call(self._client.responses.retrieve, id)

    async def events_after(self, id: str, after: int | None = None) -> Events:
        cursor: Any = {} if after is None else {"starting_after": after}
        return await self._call(lambda: list(self._client.responses.retrieve(id, stream=True, **cursor)))

    async def cancel(self, id: str) -> Response:
        return await self._call(self._client.responses.cancel, id)

    async def close(self) -> None:
        self._client.close()

    async def _call(self, function: Callable[..., T], *arguments: Any, **given: Any) -> T:
        return await asyncio.to_thread(function, *arguments, **given)


class Asynchronous:
    """`openai.AsyncOpenAI`."""

    def __init__(self, url: str, **options: Any) -> None:
        self._client = AsyncOpenAI(base_url=url, api_key="unused", **options)

    async def create(self, **given: Any) -> Response:
        created: Response = await self._client.responses.create(**given)
        return created

    async def events(self, **given: Any) -> Events:
        return [event async for event in await self._client.responses.create(stream=True, **given)]

    async def streamed(self, **given: Any) -> tuple[Events, Response]:
        async with self._client.responses.stream(**given) as stream:
            return [event async for event in stream], await stream.get_final_response()

    async def first_events(self, count: int, **given: Any) -> Events:
        async with await self._client.responses.create(stream=True, **given) as stream:
            return [await anext(stream) for _ in range(count)]

    async def retrieve(self, id: str) -> Response:
        return await self._client.responses.retrieve(id)

    async def events_after(self, id: str, after: int | None = None) -> Events:
        cursor: Any = {} if after is None else {"starting_after": after}
        return [event async for event in await self._client.responses.retrieve(id, stream=True, **cursor)]

    async def cancel(self, id: str) -> Response:
        return await self._client.responses.cancel(id)

    async def close(self) -> None:
        await self._client.close()


CLIENTS: dict[str, Callable[..., Client]] = {"OpenAI": Blocking, "AsyncOpenAI": Asynchronous}
