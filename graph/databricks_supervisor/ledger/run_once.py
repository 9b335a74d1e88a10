"""Run a side effect at most once: claim, execute, record, in one section that cancellation does not interrupt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import TurnEndedError
from .protocol import Effect, EffectKey, Ledger
from .rows import is_final
from .worker import is_dead, this_worker

logger = logging.getLogger(__name__)

T = TypeVar("T")
Outcome = dict[str, Any]

CLAIM_SLACK_S = 5.0
_RECORD_TRIES = 8


@dataclass(frozen=True, slots=True)
class Done:
    """The effect happened, now or earlier.

    Attributes:
        outcome: Its recorded outcome.
        now: Whether this call executed it.
    """

    outcome: Outcome
    now: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """The effect was started and its outcome cannot be known.

    Attributes:
        attempt: Number of the attempt.
        reason: Why the outcome is unknown, in words.
        claimed_at: When the attempt was claimed, in seconds since the epoch, by the ledger's clock.
    """

    attempt: int
    reason: str
    claimed_at: float


async def run_once(
    ledger: Ledger,
    key: EffectKey,
    action: Callable[[int], Awaitable[Outcome]],
    *,
    lifetime_s: float,
    did_nothing: Callable[[Exception], bool] = lambda _error: False,
    permit: int | None = None,
    on_late: Callable[[Outcome], Awaitable[None]] | None = None,
) -> Done | Unknown:
    """Execute an action at most once among all processes that share the ledger.

    Args:
        ledger: Stores the claim and the outcome.
        key: Identifies the effect.
        action: Executes it, given the number of the attempt, and returns its outcome as JSON.
        lifetime_s: Maximum duration of the action, in seconds. An older claim counts as abandoned.
        did_nothing: Whether an exception of the action proves that nothing happened: the claim is then released
            and the exception raised. After any other exception the outcome is unknown.
        permit: Number of an attempt that may be followed by another one if its outcome is unknown.
        on_late: Called with an outcome that came after another attempt was permitted.

    Returns:
        :class:`Done`, or :class:`Unknown` if the outcome cannot be known.

    Raises:
        Exception: The action's, if it proves that nothing happened.
        TurnEndedError: The turn has ended, so nothing may be started.
    """
    while True:
        effect = await ledger.get_effect(key)
        if effect is None:
            result = await run_uncancelled(_attempt(ledger, key, action, did_nothing, None, on_late))
        elif effect.attempt == permit and isinstance(await _result(effect, lifetime_s), Unknown):
            result = await run_uncancelled(_attempt(ledger, key, action, did_nothing, permit, on_late))
        else:
            result = await _wait_for_result(ledger, key, effect, lifetime_s)
        if result is not None:
            return result


async def peek(ledger: Ledger, key: EffectKey, *, lifetime_s: float) -> Done | Unknown | None:
    """The result of an effect, without waiting: ``None`` if it was not started, or is under way."""
    effect = await ledger.get_effect(key)
    return await _result(effect, lifetime_s) if effect is not None else None


async def run_uncancelled(section: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end even if the awaiting task is cancelled; then raise the cancellation.

    ``asyncio.shield`` alone is not enough: the loop may close before a coroutine that nothing awaits has finished
    (docs/langgraph.md: Input is applied before the first node runs).
    """
    task = asyncio.ensure_future(section)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as cancelling:
            cancelled = cancelling
        except BaseException:
            break
    if cancelled is not None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("cancelled, after: %s", error)
        raise cancelled
    return task.result()


async def _attempt(
    ledger: Ledger,
    key: EffectKey,
    action: Callable[[int], Awaitable[Outcome]],
    did_nothing: Callable[[Exception], bool],
    permit: int | None,
    on_late: Callable[[Outcome], Awaitable[None]] | None,
) -> Done | Unknown | None:
    """Claim, execute, record. ``None`` if another caller has the claim."""
    worker = await asyncio.to_thread(this_worker)
    claiming = ledger.claim(key, worker) if permit is None else ledger.take_over(key, permit, worker)
    effect = await claiming
    if not effect.mine:
        return None
    try:
        outcome = await action(effect.attempt)
    except BaseException as error:
        if isinstance(error, Exception) and did_nothing(error):
            await ledger.release(key, effect.attempt)
            raise
        reason = str(error) or type(error).__name__
        await _record(ledger, key, effect.attempt, {"unknown": reason})
        if not isinstance(error, Exception):
            raise
        return Unknown(effect.attempt, reason, effect.claimed_at)
    if await _record(ledger, key, effect.attempt, outcome):
        return Done(outcome, now=True)
    logger.warning(
        "event=late_outcome key=%s attempt=%s response_id=%s",
        key,
        effect.attempt,
        outcome.get("response_id"),
    )
    if on_late is not None:
        await on_late(outcome)
    if await ledger.get_effect(key) is None:
        raise TurnEndedError("The thread was deleted while its job was being submitted. Nothing was stored.")
    return None


async def _record(ledger: Ledger, key: EffectKey, attempt: int, outcome: Outcome) -> bool:
    """Record, with retries while the database is unreachable: a lost outcome may be a lost job."""
    for failures in range(_RECORD_TRIES):
        try:
            return await ledger.record(key, attempt, outcome)
        except Exception as error:
            logger.error(
                "event=record_failed key=%s response_id=%s error=%s", key, outcome.get("response_id"), error
            )
            await asyncio.sleep(0.1 * 2**failures)
    return True  # The caller keeps the outcome in the thread's state; in the ledger it stays unknown.


async def _wait_for_result(
    ledger: Ledger, key: EffectKey, effect: Effect | None, lifetime_s: float
) -> Done | Unknown | None:
    """Wait for an effect that another caller has started. ``None`` if its claim was released."""
    delay = 0.02
    while effect is not None:
        if (result := await _result(effect, lifetime_s)) is not None:
            return result
        await asyncio.sleep(delay)
        delay = min(1.0, delay * 1.5)
        effect = await ledger.get_effect(key)
    return None


async def _result(effect: Effect, lifetime_s: float) -> Done | Unknown | None:
    if effect.outcome is not None and is_final(effect.outcome):
        return Done(effect.outcome, now=False)
    is_abandoned = (
        effect.outcome is not None
        or effect.age > lifetime_s + CLAIM_SLACK_S
        or await asyncio.to_thread(is_dead, effect.worker)  # reads /proc
    )
    if not is_abandoned:
        return None
    reason = (effect.outcome or {}).get("unknown") or "the process that started it has ended"
    return Unknown(effect.attempt, str(reason), effect.claimed_at)
