"""The way into a run: which turn it belongs to, before LangGraph applies the input.

A node would be too late: by then the question is in the state, and a thread that is busy could not go on with its
own turn (docs/langgraph.md: Input is applied before the first node runs).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import BaseMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver

from ..checkpoint.ledger_resolver import LedgerResolver
from ..checkpoint.snapshot import Snapshot, snapshot_of, wait_until_stored
from ..client.pool import ClientPool
from ..errors import ConfigurationError, ForeignThreadError, SupervisorError, ThreadMovedError
from ..items.history import question_digest
from ..ledger import Turn
from ..run import RUN_KEY, Headers, Run, Time
from ..settings import Settings
from .busy import resolve_busy_turn
from .inputs import CallerInput, check_resumable, checked_id, is_question, read_context, read_input
from .langgraph_internals import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_TASK_ID,
    patch_configurable,
)
from .position import position_of, step_of, task_namespace
from .resume import CheckpointAccess, bind_answer, drop_stale_answer
from .turns import Busy, IncomingQuestion, TurnMatch, find_or_open_turn, new_job

logger = logging.getLogger(__name__)

ContinueThread = Callable[[RunnableConfig], Awaitable[None]]
"""Runs the thread as it stands, with a config, to its end or to a person."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What all runs of a supervisor share."""

    settings: Settings
    ledgers: LedgerResolver
    clients: ClientPool
    time: Time
    headers: Headers

    async def run(self, config: RunnableConfig, context: Any, saver: BaseCheckpointSaver[Any] | None) -> Run:
        """What the nodes of one run share.

        Args:
            config: The run's config, with all that LangGraph adds to it.
            context: The caller's context.
            saver: The checkpointer that is in force, or ``None``.

        Raises:
            ConfigurationError: The context cannot work.
            InvalidInputError: The thread's id cannot be stored.
        """
        inherited = getattr(config[CONF].get(CONFIG_KEY_RUNTIME), "context", None)
        return Run(
            settings=self.settings.with_context(read_context(context, inherited)),
            ledger=await self.ledgers.resolve(saver),
            thread=checked_id("thread_id", str(config[CONF].get("thread_id") or uuid.uuid4())),
            clients=self.clients,
            time=self.time,
            headers=self.headers,
            resumable=saver is not None,
        )


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """Input and config passed to LangGraph in place of the caller's.

    Attributes:
        input: The input.
        config: The config.
        run: What the nodes share.
        turn: The run's turn; ``None`` for a run that resumes what is in the state.
        begins: Whether the input puts the question into the state.
    """

    input: Any
    config: RunnableConfig
    run: Run
    turn: Turn | None
    begins: bool = False

    @property
    def turn_id(self) -> str | None:
        """Id of the turn, if it is known."""
        return self.turn.turn_id if self.turn is not None else None

    async def mark_delivered(self) -> None:
        """Note that the caller has the turn's end. Without a checkpointer only the ledger can know that."""
        if not self.run.resumable and self.turn is not None:
            await self.run.ledger.mark_delivered(self.turn.turn_id)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled graph, as one caller runs it.

    Attributes:
        parts: What all its runs share.
        channels: Names of the graph's channels.
        checkpointer: What the graph was compiled with.
        access: The checkpointer in force.
        stores_first: Whether a question must be in a checkpoint before it is submitted.
    """

    parts: Parts
    channels: Collection[str]
    checkpointer: Any
    access: CheckpointAccess
    stores_first: bool


async def prepare_run(
    graph: Compiled,
    input: Any,
    config: RunnableConfig,
    full_config: RunnableConfig,
    context: Any,
    continue_thread: ContinueThread,
) -> PreparedRun:
    """Find or open the turn of an input.

    Args:
        graph: The compiled graph.
        input: What the caller gave.
        config: The caller's config.
        full_config: The same with all that LangGraph adds to it.
        context: The caller's context.
        continue_thread: Runs the thread as it stands.

    Raises:
        SupervisorError: The run may not begin. Nothing was changed.
    """
    run = await graph.parts.run(full_config, context, graph.access.saver)
    nested = CONFIG_KEY_TASK_ID in full_config[CONF]
    _refuse_unsafe(run, graph.checkpointer, nested=nested)
    config = patch_configurable(config, {RUN_KEY: run})
    place = _Place(graph.channels, full_config, run.thread, graph.access)
    snapshot = await place.read()
    if snapshot.foreign:
        raise ForeignThreadError(
            f"Thread {run.thread} belongs to another graph. Nothing was changed. Use another thread id."
        )
    if nested:
        config = await bind_answer(config, place.address, graph.access)
        resumes = bool(full_config[CONF].get(CONFIG_KEY_RESUMING)) and snapshot.exists
    else:
        resumes = not is_question(input)
    if resumes:
        check_resumable(input, snapshot, run.thread)
        given = input if nested else drop_stale_answer(input, interrupted=snapshot.interrupted)
        return PreparedRun(given, config, run, None)
    caller_input = read_input(input, run.settings)
    return await _begin(graph, run, place, caller_input, snapshot, config, continue_thread, nested=nested)


async def _begin(
    graph: Compiled,
    run: Run,
    place: _Place,
    caller_input: CallerInput,
    snapshot: Snapshot,
    config: RunnableConfig,
    continue_thread: ContinueThread,
    *,
    nested: bool,
) -> PreparedRun:
    """Prepare a run for a question: of a new turn, or of one that exists."""

    async def continue_here() -> None:
        await continue_thread(config)

    match, refusals = await _find_turn(run, place, caller_input, snapshot, continue_here, nested=nested)
    if match.unfinished and not nested:
        await _finish_turn_before(continue_here, run.thread)
    if match.how == "resume":
        if not nested:
            return PreparedRun(None, config, run, match.turn)
        config = patch_configurable(config, {CONFIG_KEY_RESUMING: True})
    if graph.stores_first:
        run = replace(run, stored=lambda: place.wait_until_stored(match.turn.turn_id))
        config = patch_configurable(config, {RUN_KEY: run})
    removals = caller_input.removals
    messages = [*_without_removed(refusals, removals), *removals, *match.messages]
    given = {"messages": messages, "job": new_job(match.turn.turn_id, caller_input.tools)}
    return PreparedRun(given, config, run, match.turn, begins=True)


async def _find_turn(
    run: Run,
    place: _Place,
    caller_input: CallerInput,
    snapshot: Snapshot,
    continue_here: Callable[[], Awaitable[None]],
    *,
    nested: bool,
) -> tuple[TurnMatch, list[BaseMessage]]:
    """The question's turn, and refusals of the approval requests of a turn that it replaced."""
    asked = IncomingQuestion(
        messages=caller_input.messages,
        digest=question_digest(caller_input.messages),
        turn_id=caller_input.turn_id,
        follows=caller_input.follows,
        thread=run.thread,
        position=position_of(place.config),
        step=step_of(place.config),
        forked=not nested and bool(place.config[CONF].get(CONFIG_KEY_CHECKPOINT_ID)),
        identity=run.settings.identity,
    )
    refusals: list[BaseMessage] = []
    gave_up_another = False
    while True:
        try:
            match = await find_or_open_turn(run.ledger, asked, snapshot.job)
        except Busy as busy:
            refusals = await resolve_busy_turn(run, busy, snapshot, continue_here, nested=nested)
            gave_up_another = True
        except ThreadMovedError:
            if asked.follows is not None:
                raise
        else:
            if match.how == "reattach" and (await place.read()).has(match.turn.turn_id):
                match = replace(match, how="resume")  # It was written to the state meanwhile.
            # A turn that was just given up is not waited for: its job may run for long.
            return replace(match, unfinished=match.unfinished and not gave_up_another), refusals
        snapshot = await place.read()  # The thread changed meanwhile: read it again and decide anew.


def _refuse_unsafe(run: Run, checkpointer: Any, *, nested: bool) -> None:
    if nested and checkpointer in (True, False) and checkpointer is not None:
        raise ConfigurationError(
            f"This supervisor was compiled with checkpointer={checkpointer} and runs inside another "
            "graph: parallel branches would share one state (True), or an interrupt would submit again "
            "(False). Compile it with checkpointer=None, so that it inherits the parent's."
        )
    if run.settings.may_ask and not run.resumable:
        raise ConfigurationError(
            "A declared tool may need a person's approval, and no checkpointer is in force to wait for "
            "one. Compile with a checkpointer (or the parent graph, with this one inheriting it), or set "
            'require_approval="never". Nothing was submitted.'
        )


class _Place:
    """Where in a thread the supervisor runs, and its checkpoints there."""

    def __init__(
        self, channels: Collection[str], config: RunnableConfig, thread: str, access: CheckpointAccess
    ) -> None:
        self.config = config
        self._channels = channels
        self._get_tuple = access.get_tuple
        address: dict[str, Any] = {"thread_id": thread, "checkpoint_ns": task_namespace(config)}
        if not address["checkpoint_ns"] and (id := config[CONF].get(CONFIG_KEY_CHECKPOINT_ID)):
            address[CONFIG_KEY_CHECKPOINT_ID] = id
        self.address: RunnableConfig = {CONF: address}

    async def read(self) -> Snapshot:
        """Its latest checkpoint; or the one that the caller addressed."""
        return snapshot_of(await self._get_tuple(self.address), self._channels)

    async def wait_until_stored(self, turn_id: str) -> None:
        """Wait until a turn's question is in a checkpoint.

        LangGraph's ``"sync"`` waits for the checkpoint after each step, but not for the first one, which has the
        input.
        """
        latest: RunnableConfig = {CONF: {**self.address[CONF], CONFIG_KEY_CHECKPOINT_ID: None}}

        async def read() -> Snapshot:
            return snapshot_of(await self._get_tuple(latest), self._channels)

        if not await wait_until_stored(read, turn_id):
            logger.warning("event=input_not_stored_yet turn=%s", turn_id)


def _without_removed(refusals: Sequence[BaseMessage], removals: Sequence[RemoveMessage]) -> list[BaseMessage]:
    """The refusals whose approval requests are not removed from the conversation."""
    gone = {str(removal.id).rpartition(":")[0] for removal in removals}
    return [refusal for refusal in refusals if str(refusal.id).partition(":decision:")[0] not in gone]


async def _finish_turn_before(continue_here: Callable[[], Awaitable[None]], thread: str) -> None:
    """Bring the previous turn's end into the state: the process died after it wrote that to the ledger."""
    try:
        await continue_here()
    except SupervisorError as error:
        logger.info("event=settled_failure thread=%s reason=%s", thread, error)
