"""One turn of a thread, as checkpoints and ledger have it; read without running anything.

The HTTP server and the command line both read a thread here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from databricks_supervisor import Job, SupervisorInterrupt
from databricks_supervisor.approvals.decisions import DecisionKey, repeat_call_id
from databricks_supervisor.checkpoint.snapshot import Snapshot, snapshot_of, wait_until_stored
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import ForeignThreadError
from databricks_supervisor.items.output import items_of, pending_approvals
from databricks_supervisor.ledger import Effect, Ledger, Turn, recorded_decisions

MOST_CHECKPOINTS_BEFORE = 20
"""How many checkpoints before the last one of a turn are searched for its end."""


@dataclass(frozen=True, slots=True)
class PendingInterrupt:
    """An interrupt that the graph raised and has no answer to yet.

    Attributes:
        interrupt_id: LangGraph's id of it; an answer is addressed to it.
        value: What is asked. A function of yours that interrupts by itself may give any value.
    """

    interrupt_id: str
    value: SupervisorInterrupt


@dataclass(frozen=True)
class ThreadSnapshot:
    """A thread and one of its turns, at one moment.

    Attributes:
        exists: Whether the thread has a checkpoint.
        messages: The conversation. If another turn replaced this one before its end: as it was at this one's last
            checkpoint.
        job: The job in the same checkpoint, or ``None``. A turn is in the ledger before it is in a checkpoint, so
            the job may still be that of the turn before.
        interrupts: The interrupts that the checkpoint has no answer to.
        turn: The turn, or ``None`` if the thread has none.
        effects: The turn's effects.
        current: Whether it is the thread's latest turn.
    """

    exists: bool = False
    messages: Sequence[BaseMessage] = ()
    job: Job | None = None
    interrupts: Sequence[PendingInterrupt] = ()
    turn: Turn | None = None
    effects: Sequence[Effect] = field(default_factory=list)
    current: bool = True

    @property
    def own_job(self) -> Job | None:
        """The turn's job, once a checkpoint has it."""
        of_another_turn = self.turn is not None and (self.job or {}).get("turn_id") != self.turn.turn_id
        return None if of_another_turn else self.job

    @property
    def own_interrupts(self) -> list[PendingInterrupt]:
        """The turn's interrupts that can be answered by id."""
        if self.own_job is None:
            return []
        return [each for each in self.interrupts if isinstance(each.value, dict) and "ids" in each.value]

    @cached_property
    def decisions(self) -> dict[DecisionKey, dict[str, Any]]:
        """The decisions that the ledger has."""
        return recorded_decisions(self.effects)

    @cached_property
    def keys(self) -> dict[str, DecisionKey]:
        """What the ledger has each decision under that the turn waits for, by the id that a person answers."""
        round_ = (self.own_job or {}).get("round", 0)
        asked = {id: each.value["kind"] for each in self.own_interrupts for id in each.value["ids"]}
        return {
            id: (round_, repeat_call_id(self._attempts(round_, id), id) if kind == "repeat_call" else id)
            for id, kind in (dict.fromkeys(self._undecided_approvals, "mcp_approval") | asked).items()
        }

    @cached_property
    def awaited(self) -> dict[str, PendingInterrupt | None]:
        """What the turn waits for, by the id that a person answers, with the interrupt that asks.

        ``None``: an approval that no interrupt asks for at this moment, because the graph is running with the
        answers to others of the same job. It will ask for this one next.
        """
        waits: dict[str, PendingInterrupt | None] = dict.fromkeys(self._undecided_approvals)
        return waits | {id: each for each in self.own_interrupts for id in each.value["ids"]}

    @cached_property
    def pending(self) -> list[tuple[str, PendingInterrupt]]:
        """What the interrupts ask and the ledger has no decision on: ids, with their interrupts."""
        return [
            (id, each)
            for each in self.own_interrupts
            for id in each.value["ids"]
            if self.keys[id] not in self.decisions
        ]

    @property
    def resume(self) -> dict[str, dict[str, Any]]:
        """The decisions that the ledger has and the graph does not: by interrupt, by id."""
        answers: dict[str, dict[str, Any]] = {}
        for each in self.own_interrupts:
            for id in each.value["ids"]:
                if (decision := self.decisions.get(self.keys[id])) is not None:
                    answers.setdefault(each.interrupt_id, {})[id] = _resume_value(decision)
        return answers

    @cached_property
    def _undecided_approvals(self) -> list[str]:
        """Approvals that the turn's completed job asks for, and that nobody has decided on."""
        job = self.own_job
        if job is None or job.get("ended") or job.get("status") != "completed":
            return []
        requests = pending_approvals(items_of(self.messages, job.get("response_id")))
        return [str(item["id"]) for item in requests if (job["round"], item["id"]) not in self.decisions]

    def _attempts(self, round_: int, call_id: str) -> int:
        """The number of the latest attempt at running a function."""
        key = (round_, "tool", call_id)
        runs = [each for each in self.effects if (each.key.round, each.key.kind, each.key.id) == key]
        return max((each.attempt for each in runs), default=0)


def config_of(thread_id: str) -> RunnableConfig:
    """LangGraph's config for a thread."""
    return {"configurable": {"thread_id": thread_id}}


class ThreadReader:
    """Reads threads.

    The checkpoint is read before the ledger: what is in a checkpoint was in the ledger before, so nothing in the
    result belongs to a turn or a job that the result does not know.
    """

    def __init__(self, graph: CompiledSupervisorGraph, ledger: Ledger) -> None:
        self._graph = graph
        self._ledger = ledger

    async def read(self, thread_id: str) -> ThreadSnapshot:
        """The thread and its latest turn.

        Raises:
            ForeignThreadError: Another graph wrote the thread.
        """
        snapshot = await self._checkpoint(thread_id)
        turn = await self._ledger.latest_turn(thread_id, "")
        if turn is None:
            return snapshot
        return replace(snapshot, turn=turn, effects=await self._ledger.effects(turn.turn_id))

    async def read_turn(self, turn: Turn) -> ThreadSnapshot:
        """The thread and one turn of it, which need not be the latest; raises as :meth:`read`."""
        snapshot = await self._checkpoint(turn.thread)
        effects = await self._ledger.effects(turn.turn_id)
        latest = await self._ledger.latest_turn(turn.thread, turn.position)
        current = latest is not None and latest.turn_id == turn.turn_id
        snapshot = replace(snapshot, turn=turn, effects=effects, current=current)
        if current or (snapshot.own_job or {}).get("ended"):
            return snapshot
        messages, job = await self._last_checkpoint_of(turn) or (snapshot.messages, None)
        return replace(snapshot, messages=messages, job=job, interrupts=())

    async def wait_until_stored(self, turn: Turn) -> bool:
        """Wait until a turn's question is in a checkpoint, 2 seconds at most; whether it is."""

        async def read() -> Snapshot:
            return Snapshot(job=(await self.read_turn(turn)).job)

        return await wait_until_stored(read, turn.turn_id)

    async def _checkpoint(self, thread_id: str) -> ThreadSnapshot:
        """The thread's latest checkpoint."""
        config = config_of(thread_id)
        saved = await cast(Any, self._graph.checkpointer).aget_tuple(config)
        found = snapshot_of(saved, self._graph.channels)
        if found.foreign:
            raise ForeignThreadError(
                "The thread belongs to another graph. Nothing was changed. Use another thread id."
            )
        interrupts = (await self._graph.aget_state(config)).interrupts if found.interrupted else ()
        return ThreadSnapshot(
            exists=found.exists,
            messages=found.messages,
            job=found.job,
            interrupts=[PendingInterrupt(each.id, each.value) for each in interrupts],
        )

    async def _last_checkpoint_of(self, turn: Turn) -> tuple[Sequence[BaseMessage], Job] | None:
        """Messages and job in the last checkpoint of a turn that others have followed."""
        found: tuple[Sequence[BaseMessage], Job] | None = None
        before = 0
        async for state in self._graph.aget_state_history(config_of(turn.thread)):
            job = state.values.get("job")
            before += found is not None
            if job is not None and job.get("turn_id") == turn.turn_id:
                # Two processes may have run the turn, and the slower one written last: the end is what counts.
                if job.get("ended"):
                    return state.values.get("messages", []), job
                found = found or (state.values.get("messages", []), job)
            if before == MOST_CHECKPOINTS_BEFORE:
                break
        return found


def _resume_value(decision: Mapping[str, Any]) -> dict[str, Any]:
    if decision["approve"]:
        return {"type": "approve"}
    return {"type": "reject", "message": decision.get("reason")}
