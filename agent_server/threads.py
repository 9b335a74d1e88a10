"""A thread as its latest checkpoint and the ledger have it, read without running anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from databricks_supervisor import Job, SupervisorInterrupt
from databricks_supervisor.checkpoint.snapshot import snapshot_of
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import ForeignThreadError
from databricks_supervisor.items import items_from_message
from databricks_supervisor.items.output import pending_approvals
from databricks_supervisor.ledger import Effect, Ledger, Turn

from .http.responses import Pause, pauses_of, rounds_of

MOST_BEYOND = 20
"""So many checkpoints before the last one of a turn are looked through for its end."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the graph asks a person.

    Attributes:
        interrupt_id: LangGraph's id, to answer it by.
        value: What is asked.
    """

    interrupt_id: str
    value: SupervisorInterrupt


@dataclass(frozen=True, slots=True)
class Look:
    """A thread.

    Attributes:
        messages: The conversation.
        job: The job in the state, or ``None``.
        questions: What waits for a person.
        turn: The thread's latest turn, or ``None``.
        effects: That turn's effects.
    """

    messages: Sequence[BaseMessage] = ()
    job: Job | None = None
    questions: list[Question] = field(default_factory=list)
    turn: Turn | None = None
    effects: list[Effect] = field(default_factory=list)

    @property
    def asked(self) -> dict[str, Question | None]:
        """The questions by the ids of what they ask about.

        ``None``: asked again in a moment, as the graph goes on with what was answered of the same pause.
        """
        waits: dict[str, Question | None] = dict.fromkeys(self._unanswered)
        return waits | {id: question for question in self.questions for id in question.value["ids"]}

    @property
    def _unanswered(self) -> list[str]:
        """Approvals that the job ended with and nobody has decided on."""
        job = self.job
        if job is None or job.get("ended") or job.get("status") != "completed":
            return []
        own, round_ = f"{job.get('response_id')}:", job["round"]
        decided = {
            effect.key.id
            for effect in self.effects
            if (effect.key.kind, effect.key.round) == ("decision", round_)
            and "approve" in (effect.outcome or {})
        }
        items = [
            item
            for message in self.messages
            if (message.id or "").startswith(own)
            for item in items_from_message(message)
        ]
        return [id for item in pending_approvals(items) if (id := str(item["id"])) not in decided]


@dataclass(frozen=True, slots=True)
class TurnLook:
    """One turn of a thread.

    Attributes:
        turn: The turn.
        messages: The conversation as it is now; or as it was, if the turn was taken out of it since.
        job: The turn's job as its last checkpoint has it; ``None`` if there is none.
        questions: What the graph asks a person, answered or not.
        keys: Under which round and id the ledger keeps each answer, by what is asked about.
        decisions: The answers that the ledger has, by round and id.
        pauses: Its pauses that were answered.
        rounds: Its jobs at the service.
        current: Whether it is the thread's latest turn.
    """

    turn: Turn
    messages: Sequence[BaseMessage]
    job: Job | None
    questions: list[Question]
    keys: dict[str, tuple[int, str]]
    decisions: dict[tuple[int, str], dict[str, Any]]
    pauses: list[Pause]
    rounds: dict[int, str]
    current: bool

    @property
    def pending(self) -> list[tuple[str, Question]]:
        """What waits for an answer: ids, with the questions that they are part of."""
        return [
            (id, question)
            for question in self.questions
            for id in question.value["ids"]
            if self.keys[id] not in self.decisions
        ]

    @property
    def answered(self) -> dict[str, dict[str, Any]]:
        """The answers that the graph has not been given yet: by interrupt, by id."""
        answers: dict[str, dict[str, Any]] = {}
        for question in self.questions:
            for id in question.value["ids"]:
                if (decision := self.decisions.get(self.keys[id])) is not None:
                    answers.setdefault(question.interrupt_id, {})[id] = _answer(decision)
        return answers


def config_of(thread_id: str) -> RunnableConfig:
    """LangGraph's address of a thread."""
    return {"configurable": {"thread_id": thread_id}}


class ThreadReader:
    """Reads threads.

    Args:
        graph: The compiled graph, with its checkpointer.
        ledger: The graph's ledger.
    """

    def __init__(self, graph: CompiledSupervisorGraph, ledger: Ledger) -> None:
        self._graph = graph
        self._ledger = ledger

    async def look(self, thread_id: str) -> Look:
        """The thread as it is now.

        Raises:
            ForeignThreadError: Another graph wrote it.
        """
        # The state first: what it holds was in the ledger before, so nothing in it is of a turn that is not known.
        messages, job, questions = await self._state(thread_id)
        turn = await self._ledger.latest_turn(thread_id, "")
        effects = await self._ledger.effects(turn.turn_id) if turn is not None else []
        return Look(messages, job, questions, turn, effects)

    async def look_at_turn(self, turn: Turn) -> TurnLook:
        """One turn, also an older one."""
        # The state first, as above: an end whose job the ledger did not name yet would be an end without items.
        messages, job, questions = await self._state(turn.thread)
        effects = await self._ledger.effects(turn.turn_id)
        latest = await self._ledger.latest_turn(turn.thread, turn.position)
        rounds = rounds_of(effects)
        current = latest is not None and latest.turn_id == turn.turn_id
        if job is not None and job.get("turn_id") != turn.turn_id:
            job, questions = None, []
        if not current and (job is None or not job.get("ended")):
            questions = []
            messages, job = await self._as_it_was(turn, messages)
        return TurnLook(
            turn=turn,
            messages=messages,
            job=job,
            questions=questions,
            keys=_keys(questions, job, effects),
            decisions={
                (effect.key.round, effect.key.id): effect.outcome or {}
                for effect in effects
                if effect.key.kind == "decision" and "approve" in (effect.outcome or {})
            },
            pauses=pauses_of(effects),
            rounds=rounds,
            current=current,
        )

    async def _state(self, thread_id: str) -> tuple[Sequence[BaseMessage], Job | None, list[Question]]:
        config = config_of(thread_id)
        snapshot = snapshot_of(
            await cast(Any, self._graph.checkpointer).aget_tuple(config), self._graph.channels
        )
        if snapshot.foreign:
            raise ForeignThreadError(
                "The thread belongs to another graph. Nothing was changed. Use another thread id."
            )
        questions: list[Question] = []
        if snapshot.interrupted:
            state = await self._graph.aget_state(config)
            questions = [
                Question(each.id, cast(SupervisorInterrupt, each.value))
                for each in state.interrupts
                if isinstance(each.value, dict) and "ids" in each.value
            ]
        return snapshot.messages, snapshot.job, questions

    async def _as_it_was(
        self, turn: Turn, messages: Sequence[BaseMessage]
    ) -> tuple[Sequence[BaseMessage], Job | None]:
        """The last checkpoint of a turn that others have followed."""
        found: tuple[Sequence[BaseMessage], Job] | None = None
        beyond = 0
        async for state in self._graph.aget_state_history(config_of(turn.thread)):
            job = state.values.get("job")
            beyond += found is not None
            if job is not None and job.get("turn_id") == turn.turn_id:
                found = found or (state.values.get("messages", []), job)
                # Of two that drove it the slower one may have written last: what counts is the end.
                if job.get("ended"):
                    return state.values.get("messages", []), job
            if beyond == MOST_BEYOND:
                break
        return found or (messages, None)


def _keys(
    questions: Sequence[Question], job: Job | None, effects: Sequence[Effect]
) -> dict[str, tuple[int, str]]:
    round_ = job["round"] if job is not None else 0
    keys = {}
    for question in questions:
        for id in question.value["ids"]:
            key = id
            if question.value["kind"] == "repeat_call":
                # The attempt is part of it: another one that is cut off is another question.
                attempts = [
                    effect.attempt
                    for effect in effects
                    if (effect.key.round, effect.key.kind, effect.key.id) == (round_, "tool", id)
                ]
                key = f"repeat_{max(attempts, default=0)}_{id}"
            keys[id] = (round_, key)
    return keys


def _answer(decision: Mapping[str, Any]) -> dict[str, Any]:
    if decision["approve"]:
        return {"type": "approve"}
    return {"type": "reject", "message": decision.get("reason")}
