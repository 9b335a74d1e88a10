"""How a side effect happens once: claim, do, record, in one section that cancellation does not cut."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import TurnEndedError
from . import Effect, EffectKey, Ledger
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
        outcome: What was recorded.
        now: Whether this call did it.
    """

    outcome: Outcome
    now: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """The effect was begun and nobody knows what became of it.

    Attributes:
        attempt: Which attempt it was.
        reason: What is known, in words.
        claimed_at: When it was begun, in seconds since the epoch, by the ledger's clock.
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
    """Do something at most once among everyone who shares the ledger.

    Args:
        ledger: Where it is claimed and recorded.
        key: What makes it the same.
        action: Does it, given the number of the attempt, and returns its outcome as JSON.
        lifetime_s: How long the action can take, in seconds. A claim is young for a little longer.
        did_nothing: Whether an exception of the action proves that nothing happened: then the claim is given back
            and the exception goes on. Any other one leaves the outcome unknown.
        permit: The attempt of unknown outcome that may be followed by another one.
        on_late: Called with an outcome that came after somebody else was allowed to try again.

    Returns:
        :class:`Done`, or :class:`Unknown` if the outcome cannot be known.

    Raises:
        Exception: The action's, where it proves that nothing happened.
        TurnEndedError: The turn is over, so nothing may be begun.
    """
    while True:
        effect = await ledger.get_effect(key)
        if effect is None:
            result = await run_uncancelled(_attempt(ledger, key, action, did_nothing, None, on_late))
        elif effect.attempt == permit and isinstance(await _known(effect, lifetime_s), Unknown):
            result = await run_uncancelled(_attempt(ledger, key, action, did_nothing, permit, on_late))
        else:
            result = await _watch(ledger, key, effect, lifetime_s)
        if result is not None:
            return result


async def peek(ledger: Ledger, key: EffectKey, *, lifetime_s: float) -> Done | Unknown | None:
    """What is known of an effect, without waiting: ``None`` if it was not begun, or is under way."""
    effect = await ledger.get_effect(key)
    return await _known(effect, lifetime_s) if effect is not None else None


async def run_uncancelled(section: Coroutine[Any, Any, T]) -> T:
    """Run a section to its end even when the task that awaits it is cancelled; then let the cancelling go on.

    A shield alone is not enough: the loop may close before a section that nobody awaits is done
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
    """Claim, do, record. ``None`` when somebody else was quicker to claim."""
    worker = await asyncio.to_thread(this_worker)
    effect = (
        await ledger.claim(key, worker) if permit is None else await ledger.take_over(key, permit, worker)
    )
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
        raise TurnEndedError("The thread was deleted while its job was being submitted. Nothing was kept.")
    return None


async def _record(ledger: Ledger, key: EffectKey, attempt: int, outcome: Outcome) -> bool:
    """Record, trying again while the ledger's database is away: an outcome that is lost may be a lost job."""
    for failures in range(_RECORD_TRIES):
        try:
            return await ledger.record(key, attempt, outcome)
        except Exception as error:
            logger.error(
                "event=record_failed key=%s response_id=%s error=%s", key, outcome.get("response_id"), error
            )
            await asyncio.sleep(0.1 * 2**failures)
    return True  # The caller keeps it in the thread's state; the ledger will call it unknown.


async def _watch(ledger: Ledger, key: EffectKey, effect: Effect, lifetime_s: float) -> Done | Unknown | None:
    """Wait for an effect that somebody else has begun. ``None`` when it was given back."""
    delay = 0.02
    current: Effect | None = effect
    while current is not None:
        if (known := await _known(current, lifetime_s)) is not None:
            return known
        await asyncio.sleep(delay)
        delay = min(1.0, delay * 1.5)
        current = await ledger.get_effect(key)
    return None


async def _known(effect: Effect, lifetime_s: float) -> Done | Unknown | None:
    if effect.outcome is not None and "unknown" not in effect.outcome:
        return Done(effect.outcome, now=False)
    if not await _is_over(effect, lifetime_s):
        return None
    reason = (effect.outcome or {}).get("unknown") or "the process that began it is gone"
    return Unknown(effect.attempt, str(reason), effect.claimed_at)


async def _is_over(effect: Effect, lifetime_s: float) -> bool:
    """Whether whoever claimed the effect can no longer record an outcome that is worth waiting for."""
    if effect.outcome is not None or effect.age > lifetime_s + CLAIM_SLACK_S:
        return True
    return await asyncio.to_thread(is_dead, effect.worker)  # It reads /proc.
