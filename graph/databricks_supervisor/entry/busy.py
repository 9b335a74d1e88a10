"""What happens to an open turn when another question comes: it is replaced, waited for or cancelled, or it stays."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.messages import BaseMessage

from ..approvals.decisions import REPLACED, decision_message, first_contradicted, record_answer
from ..checkpoint.snapshot import Snapshot
from ..errors import SupervisorError, ThreadBusyError, TurnEndedError
from ..items.output import pending_of
from ..ledger import EffectKey, Turn, response_ids
from ..ledger.run_once import Done, peek, run_once
from ..run import Run
from ..state import Decision
from .turns import Busy

logger = logging.getLogger(__name__)

LONGEST_START_S = 60.0
WAIT_S = 1.0


async def resolve_busy_turn(
    run: Run, busy: Busy, snapshot: Snapshot, continue_thread: Callable[[], Awaitable[None]], *, nested: bool
) -> list[BaseMessage]:
    """End the open turn, if the rules allow it.

    A turn that waits for a person is replaced: its approval requests are refused. For a turn that runs, ``on_busy``
    decides: reject the new question, wait (run the turn to its end), or cancel the turn.

    Returns:
        The refusals, which go into the thread before the new question.

    Raises:
        ThreadBusyError: The new message has to wait.
    """
    turn, policy = busy.turn, run.settings.on_busy
    if not nested and await _is_abandoned(run, turn, in_state=snapshot.has(turn.turn_id)):
        await run.ledger.end_turn(turn.turn_id)
        logger.warning("event=turn_gone thread=%s turn=%s", run.thread, turn.turn_id)
        return []
    if await _waits_for_person(run, turn, snapshot, nested=nested):
        return await _replace(run, busy, snapshot)
    if policy == "cancel":
        await _cancel(run, turn)
        return []
    if policy == "wait":
        await _wait(run, turn, snapshot, continue_thread, nested=nested)
        return []
    raise ThreadBusyError(str(busy)) from None


async def _waits_for_person(run: Run, turn: Turn, snapshot: Snapshot, *, nested: bool) -> bool:
    """Whether the turn waits for a person, so that nothing of it runs."""
    if not nested:
        # A function that got its answer may be running: its claim shows that, the state does not.
        return (
            snapshot.has(turn.turn_id) and snapshot.interrupted and not await _has_effect_under_way(run, turn)
        )
    # The parent, and the child's state with it, is at another step. Only the service knows whether the job runs.
    response_id = await _last_response(run, turn)
    if response_id is None:
        return False
    client = await run.client()
    try:
        response = await client.retrieve(response_id, timeout_s=run.settings.retrieve_timeout_s)
    except Exception as error:
        logger.info("event=busy_probe_failed response_id=%s reason=%s", response_id, error)
        return False
    return response.terminal


async def _has_effect_under_way(run: Run, turn: Turn) -> bool:
    """Whether a side effect of the turn is under way."""
    longest = {"submit": run.settings.create_timeout_s, "tool": run.settings.call_lifetime_s}
    for effect in await run.ledger.effects(turn.turn_id):
        if await peek(run.ledger, effect.key, lifetime_s=longest.get(effect.key.kind, 0.0)) is None:
            return True
    return False


async def _is_abandoned(run: Run, turn: Turn, *, in_state: bool) -> bool:
    """Whether nobody can or will continue a turn, so that another question may end it.

    Not in the state: its run died before it wrote a checkpoint, and only the same question could continue it. In the
    state: nothing was submitted for it because the service refused (403), and nobody has tried for a while. A later
    attempt finds the turn ended.
    """
    effects = await run.ledger.effects(turn.turn_id)
    if in_state and effects:
        return False
    latest = max([turn.opened_at, *(effect.claimed_at for effect in effects)])
    return run.time.now() - latest > LONGEST_START_S and not await _has_effect_under_way(run, turn)


async def _replace(run: Run, busy: Busy, snapshot: Snapshot) -> list[BaseMessage]:
    turn, state = busy.turn, snapshot.state
    refusals: list[BaseMessage] = []
    if state is not None and snapshot.has(turn.turn_id) and state["job"]["response_id"]:
        refusal = Decision(approve=False, by="policy", reason=REPLACED)
        job = state["job"]
        pending = pending_of(state["messages"], job["response_id"], ())
        approvals = sorted(pending.approvals, key=lambda item: str(item["id"]))
        undecided = {str(item["id"]) for item in approvals} - (job.get("decisions") or {}).keys()
        answer = {(job["round"], id): refusal for id in undecided}
        standing = await record_answer(run.ledger, turn.turn_id, answer)
        if first_contradicted(answer, standing) is not None:
            # It was approved at this moment: the turn continues.
            raise ThreadBusyError(str(busy)) from None
        # If the turn ends before its next round, an earlier approval has no effect: the service is told no.
        refusals = [decision_message(job, item, refusal) for item in approvals]
        if await _next_round_was_submitted(run, turn, job["round"]):
            raise ThreadBusyError(str(busy)) from None  # The decisions were sent at this moment.
    await run.ledger.end_turn(turn.turn_id)
    logger.info("event=turn_replaced thread=%s turn=%s", run.thread, turn.turn_id)
    return refusals


async def _next_round_was_submitted(run: Run, turn: Turn, waited_in: int) -> bool:
    """Claim the turn's next round and end the turn in its place; ``True`` if that round was submitted already."""

    async def end(_attempt: int) -> dict[str, Any]:
        await run.ledger.end_turn(turn.turn_id)
        raise TurnEndedError

    next_round = EffectKey(turn.turn_id, waited_in + 1, "submit")
    try:
        result = await run_once(
            run.ledger,
            next_round,
            end,
            lifetime_s=run.settings.create_timeout_s,
            did_nothing=lambda error: isinstance(error, TurnEndedError),
        )
    except TurnEndedError:
        return False
    return isinstance(result, Done)


async def _cancel(run: Run, turn: Turn) -> None:
    response_id = await _last_response(run, turn)
    cancelled = False
    if response_id is not None:
        client = await run.client()
        cancelled = await client.cancel(response_id, timeout_s=run.settings.retrieve_timeout_s)
    await run.ledger.end_turn(turn.turn_id)
    logger.warning(
        "event=turn_%s thread=%s turn=%s response_id=%s",
        "cancelled" if cancelled else "abandoned: the service did not cancel the job, it runs on unread",
        run.thread,
        turn.turn_id,
        response_id,
    )


async def _wait(
    run: Run,
    turn: Turn,
    snapshot: Snapshot,
    continue_thread: Callable[[], Awaitable[None]],
    *,
    nested: bool,
) -> None:
    """Wait until the turn may have ended. Where the state has it, run it: its own process may be gone."""
    try:
        # A turn that waits for a person while an effect is under way is not run: it would only ask again.
        if not nested and snapshot.has(turn.turn_id) and not snapshot.interrupted:
            await continue_thread()
        else:
            await run.time.sleep(WAIT_S)
    except SupervisorError as error:
        logger.info("event=waited_for_failure thread=%s turn=%s reason=%s", run.thread, turn.turn_id, error)


async def _last_response(run: Run, turn: Turn) -> str | None:
    """Id of the job of the turn's last round."""
    found = response_ids(await run.ledger.effects(turn.turn_id))
    return found[max(found)] if found else None
