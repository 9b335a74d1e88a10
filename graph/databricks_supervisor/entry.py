"""The entry of a run: which turn it is, before LangGraph applies the input.

A node would be too late for it: by then the question is in the state, and a thread that is busy would be
wedged (LANGGRAPH: Entry, position, cancellation).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import BaseMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph._internal._config import patch_configurable
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_TASK_ID,
)
from langgraph.checkpoint.base import BaseCheckpointSaver

from .busy import make_way
from .clients import Clients
from .errors import ConfigurationError, ForeignThreadError, SupervisorError, ThreadMovedError
from .given import asks, check_resumable, context_of, messages_of, removed_ids, tools_of
from .ledgers import Ledgers
from .position import position_of, step_of, task_namespace
from .resuming import Access, address_answer, answer_in_time
from .run import RUN_KEY, Headers, Run, Time
from .settings import Settings
from .snapshot import Snapshot, snapshot_of
from .turns import Asked, Busy, Entered, Thread, checked_id, enter, first_job, read_question

__all__ = ["Entrance", "Entry", "Parts"]

logger = logging.getLogger(__name__)

_STORED_TRIES = 100
_STORED_EVERY_S = 0.01

Drive = Callable[[RunnableConfig], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a supervisor is made of, beside its nodes."""

    settings: Settings
    ledgers: Ledgers
    clients: Clients
    time: Time
    headers: Headers


@dataclass(frozen=True, slots=True)
class Entry:
    """What LangGraph's engine is given instead of what the caller gave.

    Attributes:
        input: The engine's input.
        config: The engine's config.
        run: What the nodes share.
        turn_id: The turn that is driven; ``None`` where the state will tell.
        begins: Whether the question is put into the state with it.
    """

    input: Any
    config: RunnableConfig
    run: Run
    turn_id: str | None
    begins: bool = False

    async def finished(self) -> None:
        """The run ended and its caller has everything: without a saver, only the ledger can know that."""
        if not self.run.resumable and self.turn_id is not None:
            await self.run.ledger.mark_delivered(self.turn_id)


@dataclass(frozen=True, slots=True)
class Entrance:
    """One caller's way in.

    Attributes:
        parts: What the supervisor is made of.
        channels: Names of the graph's channels.
        checkpointer: What the graph was compiled with.
        saver: The checkpointer that is in force, or ``None``.
        access: How this caller reaches it.
        stores_first: Whether the question has to be in a checkpoint before it is submitted.
        drive: Drives the thread as it stands, with a config, to its end or to a person.
    """

    parts: Parts
    channels: Collection[str]
    checkpointer: Any
    saver: BaseCheckpointSaver[Any] | None
    access: Access
    stores_first: bool
    drive: Drive

    async def enter(self, input: Any, config: RunnableConfig, full: RunnableConfig, context: Any) -> Entry:
        """What LangGraph's engine is to be given.

        Args:
            input: What the caller gave.
            config: The caller's config.
            full: The same with all that LangGraph adds to it.
            context: The caller's context.

        Raises:
            SupervisorError: The run may not begin. Nothing was changed.
        """
        configurable = full[CONF]
        nested = CONFIG_KEY_TASK_ID in configurable
        run = Run(
            settings=self.parts.settings.with_context(
                context_of(context, getattr(configurable.get(CONFIG_KEY_RUNTIME), "context", None))
            ),
            ledger=await self.parts.ledgers.of(self.saver),
            thread=checked_id("thread_id", str(configurable.get("thread_id") or uuid.uuid4())),
            clients=self.parts.clients,
            time=self.parts.time,
            headers=self.parts.headers,
            resumable=self.saver is not None,
        )
        self._refuse_unsafe(run, nested=nested)
        handed_on = patch_configurable(config, {RUN_KEY: run})
        where = _Where(self.channels, full, run.thread, self.access)
        snapshot = await where.look()
        if snapshot.foreign:
            raise ForeignThreadError(
                f"Thread {run.thread} belongs to another graph. Nothing was changed. Use another thread id."
            )
        if nested:
            handed_on = await address_answer(handed_on, where.address, self.access)
        resumes = (
            bool(configurable.get(CONFIG_KEY_RESUMING)) and snapshot.exists if nested else not asks(input)
        )
        if resumes:
            check_resumable(input, snapshot, run.thread)
            given = input if nested else answer_in_time(input, interrupted=snapshot.interrupted)
            return Entry(given, handed_on, run, None)
        asked = read_question(messages_of(input), input.get("turn_id"), input.get("follows"))
        tools = tools_of(input, run.settings)

        async def drive_here() -> None:
            await self.drive(handed_on)

        entered, refusals = await self._find_turn(run, where, asked, drive_here, nested=nested)
        if entered.unfinished and not nested:
            await _settle(drive_here, run.thread)
        if entered.how == "resume":
            if not nested:
                return Entry(None, handed_on, run, entered.turn.turn_id)
            handed_on = patch_configurable(handed_on, {CONFIG_KEY_RESUMING: True})
        if self.stores_first:
            run = replace(run, stored=lambda: where.wait_for(entered.turn.turn_id))
            handed_on = patch_configurable(handed_on, {RUN_KEY: run})
        removals = [RemoveMessage(id=id) for id in removed_ids(input)]
        messages = [*_still_sensible(refusals, removals), *removals, *entered.messages]
        given = {"messages": messages, "job": first_job(entered.turn.turn_id, tools)}
        return Entry(given, handed_on, run, entered.turn.turn_id, begins=True)

    async def _find_turn(
        self, run: Run, where: _Where, asked: Asked, drive: Callable[[], Awaitable[None]], *, nested: bool
    ) -> tuple[Entered, list[BaseMessage]]:
        refusals: list[BaseMessage] = []
        made_way = False
        while True:
            snapshot = await where.look()
            thread = Thread(
                thread=run.thread,
                position=position_of(where.config),
                step=step_of(where.config),
                job=snapshot.job,
                forked=not nested and bool(where.config[CONF].get(CONFIG_KEY_CHECKPOINT_ID)),
                identity=run.settings.identity,
            )
            try:
                entered = await enter(run.ledger, thread, asked)
            except Busy as busy:
                refusals = await make_way(run, busy, snapshot, drive, nested=nested)
                made_way = True
            except ThreadMovedError:
                if asked.follows is not None:
                    raise
            else:
                if entered.how == "again" and (await where.look()).has(entered.turn.turn_id):
                    entered = replace(entered, how="resume")  # It came into the state since.
                # What was just given up is not waited for: the service may go on with it for long.
                return replace(entered, unfinished=entered.unfinished and not made_way), refusals

    def _refuse_unsafe(self, run: Run, *, nested: bool) -> None:
        if nested and self.checkpointer in (True, False) and self.checkpointer is not None:
            raise ConfigurationError(
                f"This supervisor was compiled with checkpointer={self.checkpointer} and runs inside another "
                "graph: parallel branches would share one state (True), or an interrupt would submit again "
                "(False). Compile it with checkpointer=None, so that it inherits the parent's."
            )
        if run.settings.may_ask and not run.resumable:
            raise ConfigurationError(
                "A declared tool may need a person's approval, and no checkpointer is in force to wait for "
                "one. Compile with a checkpointer (or the parent graph, with this one inheriting it), or set "
                'require_approval="never". Nothing was submitted.'
            )


class _Where:
    """The place in the thread where a run enters."""

    def __init__(
        self, channels: Collection[str], config: RunnableConfig, thread: str, access: Access
    ) -> None:
        self.config = config
        self._channels = channels
        self._get_tuple = access.get_tuple
        address: dict[str, Any] = {"thread_id": thread, "checkpoint_ns": task_namespace(config)}
        if not address["checkpoint_ns"] and (id := config[CONF].get(CONFIG_KEY_CHECKPOINT_ID)):
            address[CONFIG_KEY_CHECKPOINT_ID] = id
        self.address: RunnableConfig = {"configurable": address}

    async def look(self) -> Snapshot:
        """What its latest checkpoint says now; or the one that the caller addressed."""
        return snapshot_of(await self._get_tuple(self.address), self._channels)

    async def wait_for(self, turn_id: str) -> None:
        """Wait until a turn's question is on disk; not for ever, as the ledger has the turn in any case.

        LangGraph's ``"sync"`` waits for a checkpoint after each step, and so not for the first one, with the
        input, before the first node runs.
        """
        address = {**self.address[CONF], CONFIG_KEY_CHECKPOINT_ID: None}
        for _ in range(_STORED_TRIES):
            job = snapshot_of(await self._get_tuple({CONF: address}), self._channels).job
            if job is not None and job["turn_id"] == turn_id:
                return
            await asyncio.sleep(_STORED_EVERY_S)
        logger.warning("event=input_not_stored_yet turn=%s", turn_id)


def _still_sensible(refusals: Sequence[BaseMessage], removals: Sequence[RemoveMessage]) -> list[BaseMessage]:
    """The refusals whose requests stay in the conversation."""
    gone = {str(removal.id).rpartition(":")[0] for removal in removals}
    return [refusal for refusal in refusals if str(refusal.id).partition(":decision:")[0] not in gone]


async def _settle(drive: Callable[[], Awaitable[None]], thread: str) -> None:
    """Bring the end of the turn before into the state: the process died between the ledger and the state."""
    try:
        await drive()
    except SupervisorError as error:
        logger.info("event=settled_failure thread=%s reason=%s", thread, error)
