"""Create, retrieve and cancel background responses over HTTP.

Base URL and credentials come from any client of the OpenAI SDK (``AsyncDatabricksOpenAI``, ``AsyncOpenAI``). Requests
and responses are plain JSON: the SDKs' typed calls truncate ids, cannot switch off the retries of a single POST, and
refuse unknown items (docs/wire.md: Ids, Submit). Polls use :mod:`.poll_transport` if possible, everything else uses
the client.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..errors import AuthenticationError, ServiceError
from ..polling import RateBudget
from ..redaction import scrub_answer
from .dialect import STATUSES, Dialect, guess_dialect
from .failures import (
    AlreadyExists,
    ErrorResponse,
    NotAccepted,
    OutcomeUnknown,
    Transient,
    classify_create,
    classify_retrieve,
    classify_unsent,
    describe,
    is_unsent,
    read_error_response,
)
from .poll_transport import MAX_SDK_REQUESTS, PollTransport

if TYPE_CHECKING:
    from openai import AsyncOpenAI


POLLS_PER_S = 2000
"""Per process: about half a core (``python -m benchmarks jobs``). Beyond that, polls are delayed."""
_budget = RateBudget(POLLS_PER_S)

TERMINAL = frozenset({"completed", "failed", "cancelled", "incomplete"})


@dataclass(frozen=True, slots=True)
class ServiceResponse:
    """A background response, as plain JSON.

    Attributes:
        id: Its full id.
        status: Its status at the service.
        output: Its ``output``, not validated.
        body: The whole body.
        digest: Digest of the body's bytes.
    """

    id: str
    status: str
    output: Any = None
    body: Mapping[str, Any] = field(default_factory=dict)
    digest: bytes = b""

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.status in TERMINAL

    def without_content(self) -> ServiceResponse:
        """A copy for the next poll's ``last``, to save memory: 50 KB of JSON take 200 KB when parsed."""
        return replace(self, output=None, body={})


class SupervisorClient:
    """Background responses over one client of the OpenAI SDK.

    Args:
        openai: The client.
        dialect: What the service wants; ``None``: what its address tells.

    Attributes:
        dialect: What the service wants.

    Example:
        >>> import asyncio, openai
        >>> client = SupervisorClient(openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="x"))
        >>> try:
        ...     asyncio.run(client.create({"model": "m", "input": []}, idempotency_key="k", timeout_s=5))
        ... except NotAccepted as refused:
        ...     refused.retryable
        True
    """

    def __init__(self, openai: AsyncOpenAI, dialect: Dialect | None = None) -> None:
        self._openai = openai
        self.dialect = dialect or guess_dialect(str(openai.base_url))
        self._polls = PollTransport.of(openai)
        self._slots = asyncio.Semaphore(MAX_SDK_REQUESTS)

    async def create(
        self,
        body: Mapping[str, Any],
        *,
        idempotency_key: str,
        timeout_s: float,
        submission: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> ServiceResponse:
        """POST a background response, once.

        Args:
            body: The request, as JSON.
            idempotency_key: Sent for services that support it; nothing here depends on it.
            submission: What makes two submissions the same, for services where this side chooses the response's id.
            timeout_s: Time-out of each phase of the exchange, in seconds.
            headers: More headers, such as the trace context.

        Raises:
            NotAccepted: It is certain that nothing was created.
            OutcomeUnknown: Any other failure.
        """
        chosen = {"Idempotency-Key": idempotency_key, **self.dialect.headers(submission)}
        headers = {**(headers or {}), **chosen}
        try:
            return _read(
                await self._exchange("POST", "/responses", timeout_s, classify_create, body, headers)
            )
        except AlreadyExists as conflict:
            if (chosen_id := self.dialect.chosen_id(submission)) is not None:
                return ServiceResponse(chosen_id, "queued")  # An earlier attempt has arrived.
            raise OutcomeUnknown(str(conflict)) from None
        except (NotAccepted, OutcomeUnknown):
            raise
        except _Unreadable as error:
            raise OutcomeUnknown(str(error)) from None
        except Exception as error:
            if is_unsent(error):
                raise classify_unsent(error, self._host) from None
            raise OutcomeUnknown(describe(error)) from None

    async def retrieve(
        self, response_id: str, *, timeout_s: float, last: ServiceResponse | None = None
    ) -> ServiceResponse:
        """GET a background response.

        Args:
            response_id: Its full id.
            timeout_s: Time-out of the exchange, in seconds.
            last: The previous response, which is returned without parsing if nothing changed.

        Raises:
            Transient: Network error, 408, 429, 5xx, or a body that is not a response.
            ServiceError: Any final error; 404 is a RequestRejectedError with that ``status_code``.
        """
        try:
            return _read(await self._poll(f"/responses/{quote(response_id, safe='')}", timeout_s), last)
        except (Transient, ServiceError):
            raise
        except _Unreadable as error:
            raise Transient(str(error)) from None
        except Exception as error:
            if isinstance(refused := classify_unsent(error, self._host).error, AuthenticationError):
                raise refused from None
            raise Transient(describe(error)) from None

    async def find(self, submission: str, *, timeout_s: float) -> ServiceResponse | None:
        """The response of a submission whose answer was lost, where the service can tell that it exists.

        ``None`` is no proof that the submission never arrived: a service may store a response late.

        Args:
            submission: As it was given to :meth:`create`.
            timeout_s: Time-out of the exchange, in seconds.
        """
        chosen_id = self.dialect.chosen_id(submission)
        if chosen_id is None:
            return None
        try:
            return await self.retrieve(chosen_id, timeout_s=timeout_s)
        except (Transient, ServiceError):
            return None

    async def cancel(self, response_id: str, *, timeout_s: float) -> bool:
        """Ask the service to cancel a job.

        Returns:
            Whether the service confirmed it. Some services cannot cancel (docs/wire.md: Retrieve).
        """
        try:
            path = f"/responses/{quote(response_id, safe='')}/cancel"
            await self._exchange("POST", path, timeout_s, classify_create, {})
        except Exception:
            return False
        return True

    @property
    def _host(self) -> str:
        return str(self._openai.base_url)

    async def _poll(self, path: str, timeout_s: float) -> Any:
        if wait_s := _budget.wait_s(time.monotonic()):
            await asyncio.sleep(wait_s)
        if self._polls is not None:
            response = await self._polls.get(path, timeout_s=timeout_s)
            if response.status_code >= 400:
                raise classify_retrieve(read_error_response(response, None))
            if response.status_code < 300:
                return response
            # The client handles redirects, including which headers may be sent to another host.
        return await self._exchange("GET", path, timeout_s, classify_retrieve)

    async def _exchange(
        self,
        method: str,
        path: str,
        timeout_s: float,
        classify: Callable[[ErrorResponse], Exception],
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        import httpx2
        import openai

        # The client retries POSTs by default; max_retries switches that off for this call.
        options: Any = {"max_retries": 0, "timeout": timeout_s, "headers": dict(headers or {})}
        try:
            if method == "GET":
                async with self._slots:
                    return await self._openai.get(path, cast_to=httpx2.Response, options=options)
            async with self._slot(timeout_s):
                return await self._openai.post(path, cast_to=httpx2.Response, body=body, options=options)
        except openai.APIStatusError as error:
            raise classify(read_error_response(error.response, error.body)) from None

    @asynccontextmanager
    async def _slot(self, timeout_s: float) -> AsyncIterator[None]:
        """A slot for a POST. The wait is limited, because the claim of the submission expires."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise PoolTimeout(f"{MAX_SDK_REQUESTS} requests are already running") from None
        try:
            yield
        finally:
            self._slots.release()


class _Unreadable(Exception):
    """Status 200, but the body is not a response."""


class PoolTimeout(Exception):
    """No slot was free; named as in httpx, for :func:`.failures.is_unsent`."""


def _read(response: Any, last: ServiceResponse | None = None) -> ServiceResponse:
    raw = bytes(response.content)
    digest = hashlib.sha256(raw).digest()  # 50 KB: 0.027 ms; blake2b takes 0.048.
    if last is not None and last.digest == digest:
        return last
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("id"), str) or not body["id"]:
        text = scrub_answer(raw[:2000].decode(errors="replace"), response)
        raise _Unreadable(f"the body is not a response: {text[:200]!r}")
    status = body.get("status")
    # Without a status: a service without background mode finished the response before answering.
    status = STATUSES.get(status, status) if isinstance(status, str) and status else "completed"
    body["status"] = status
    return ServiceResponse(
        id=body["id"],
        status=status,
        output=body.get("output"),
        body=body,
        digest=digest,
    )
