"""Maps a request to its response; a repeated request finds the same one, and nothing is submitted twice."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, RemoveMessage

from databricks_supervisor.approvals.decisions import conflict, first_contradicted, record_answer
from databricks_supervisor.approvals.interrupts import pending_actions
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import ThreadMovedError, TurnMismatchError
from databricks_supervisor.items import Item, is_of_response, message_from_item
from databricks_supervisor.items.history import question_digest
from databricks_supervisor.ledger import Ledger, Turn, recorded_decisions, response_ids
from databricks_supervisor.state import Decision

from ..threads import ThreadReader, ThreadSnapshot, config_of
from .background_runs import BackgroundRuns
from .caller import Caller
from .errors import ApiError, invalid_request
from .intent import AnswerApprovals, Reattach, StartTurn, intent_of
from .request import CreateRequest
from .response_reader import ResponseReader
from .responses import ResponseRef, pauses_of

logger = logging.getLogger(__name__)


class Dispatcher:
    """Starts or finds the turn that a request belongs to, and the response that answers it."""

    def __init__(
        self,
        graph: CompiledSupervisorGraph,
        ledger: Ledger,
        threads: ThreadReader,
        reader: ResponseReader,
        runs: BackgroundRuns,
    ) -> None:
        self._graph = graph
        self._ledger = ledger
        self._threads = threads
        self._reader = reader
        self._runs = runs

    async def dispatch(self, request: CreateRequest, caller: Caller) -> ResponseRef:
        """The response that answers a request; its turn runs in the background.

        Raises:
            ApiError: The request cannot be answered. Nothing was submitted for it.
            SupervisorError: As the graph raises it before a run. Nothing was submitted.
        """
        while True:
            try:
                return await self._dispatch(request, caller)
            except TurnMismatchError:
                if request.key is None:
                    raise
                raise _key_reused() from None  # By another request, at this moment.
            except ThreadMovedError:
                continue  # The thread changed meanwhile: read it again and decide anew.

    async def _dispatch(self, request: CreateRequest, caller: Caller) -> ResponseRef:
        turn_id = _digest(caller.user, request.key) if request.key is not None else uuid.uuid4().hex
        if request.key is not None and (known := await self._ledger.get_turn(turn_id)) is not None:
            return self._same_key(request, caller, known)
        thread_id, previous = await self._thread(request, caller)
        thread = await self._threads.read(thread_id)
        of_previous = (
            await self._messages_of(previous) if previous is not None and thread.turn is not None else None
        )
        match intent_of(request, thread, of_previous=of_previous):
            case StartTurn(messages, removals, known_turn_id):
                given = {
                    "follows": thread.turn.turn_id if thread.turn is not None else "",
                    "messages": [*(RemoveMessage(id=id) for id in removals), *messages],
                    "turn_id": known_turn_id or turn_id,
                    "tools": request.tools,
                }
                return await self._start(given, thread_id, caller)
            case AnswerApprovals(decisions, extra_messages):
                return await self._answer(thread, decisions, extra_messages, caller)
            case Reattach(str(answered)):
                return await self._answered(thread_id, answered, request, caller)
        if thread.turn is None:
            raise _not_known()
        return await self._reader.latest(thread.turn, caller.identity)

    async def _start(self, given: dict[str, Any], thread_id: str, caller: Caller) -> ResponseRef:
        context = {"identity": caller.identity}
        prepared = await self._graph.aprepare(given, config_of(thread_id), context=context)
        turn = prepared.turn
        assert turn is not None, "a question belongs to a turn"
        opened = {message.id for message in given["messages"]}.issuperset(turn.message_ids)
        if prepared.begins and opened:
            ref = ResponseRef(turn, 0, caller.identity, new=True)
        else:
            ref = await self._reader.latest(turn, caller.identity)
        self._runs.start(turn, caller.identity, prepared, stored_by_us=opened)
        if prepared.begins:
            await prepared.run.stored()  # The id is durable before it is returned.
        return ref

    async def _answer(
        self, thread: ThreadSnapshot, items: Sequence[Item], extra_messages: list[BaseMessage], caller: Caller
    ) -> ResponseRef:
        turn = thread.turn
        if turn is None:
            raise _not_known()
        run_before = self._runs.get(turn.turn_id)
        if run_before is not None:
            run_before.extra_messages += extra_messages  # Before the answers: it may see them at any moment.
        given = {item["approval_request_id"]: _decision(item, thread) for item in items}
        answer = {thread.keys[id]: decision for id, decision in given.items()}
        standing = await record_answer(self._ledger, turn.turn_id, answer)
        ref = await self._reader.latest(turn, caller.identity)
        run = self._runs.start(turn, caller.identity)
        if run is not run_before:
            run.extra_messages += extra_messages
        if (contradicted := first_contradicted(answer, standing)) is not None:
            logger.warning("event=decision_conflict turn=%s id=%s", turn.turn_id, contradicted[1])
            id = next(id for id in given if thread.keys[id] == contradicted)
            text = conflict(id, standing[contradicted]["approve"])
            raise ApiError(409, "already_decided", f"{text} What came of it is response {ref.id!r}.")
        return ref

    async def _answered(
        self, thread_id: str, approval_id: str, request: CreateRequest, caller: Caller
    ) -> ResponseRef:
        """The response that began with an answer when it was given first."""
        given = {i.get("approve") for i in request.items if i.get("approval_request_id") == approval_id}
        for turn in await self._ledger.turns_with_effect("decision", approval_id):
            effects = await self._ledger.effects(turn.turn_id) if turn.thread == thread_id else []
            decided = {
                decision["approve"]
                for (_, id), decision in recorded_decisions(effects).items()
                if id == approval_id
            }
            if decided and given.isdisjoint(decided):
                raise ApiError(409, "already_decided", conflict(approval_id, decided.pop()))
            keys = {("approval", effect.key.round) for effect in effects if effect.key.id == approval_id}
            for index, pause in enumerate(pauses_of(effects)):
                if pause.key in keys or pause.key[0] == approval_id:
                    return ResponseRef(turn, index + 1, caller.identity)
        raise ApiError(409, "already_decided", f"{approval_id} was decided on before. Nothing was changed.")

    def _same_key(self, request: CreateRequest, caller: Caller, turn: Turn) -> ResponseRef:
        """The first response of the turn that has the request's Idempotency-Key, wherever the thread is by now."""
        messages = [message_from_item(item, "input", index) for index, item in enumerate(request.items)]
        if question_digest(messages) != turn.digest:
            raise _key_reused()
        return ResponseRef(turn, 0, caller.identity)

    async def _thread(self, request: CreateRequest, caller: Caller) -> tuple[str, Turn | None]:
        """LangGraph's id of the request's thread, and the turn that ``previous_response_id`` names."""
        previous = None
        if request.previous is not None:
            previous = (await self._reader.find(request.previous, caller)).turn
        if request.thread is not None:
            thread_id = caller.thread(request.thread)
            if previous is not None and previous.thread != thread_id:
                wrong = "previous_response_id is of another thread than the one that is named."
                raise invalid_request(wrong, "previous_response_id")
            return thread_id, previous
        if previous is not None:
            return previous.thread, previous
        for item in reversed(request.items):
            if item.get("type") == "mcp_approval_response":
                asked_in = await self._thread_of(item["approval_request_id"], caller)
                if asked_in is not None:
                    return asked_in, None
        name = f"key-{_digest(caller.user, request.key)}" if request.key is not None else uuid.uuid4().hex
        return caller.thread(name), None

    async def _thread_of(self, approval_id: str, caller: Caller) -> str | None:
        """The thread that asked for an approval; ids need not be unique, ``resubmit_1`` is not."""
        turns = await self._ledger.turns_with_effect("decision", approval_id)
        threads = {turn.thread for turn in turns if caller.owns(turn.thread)}
        if len(threads) > 1:
            raise ApiError(
                400,
                "invalid_request",
                f"Approval of {approval_id!r} was asked for in {len(threads)} threads. Nothing was changed. Name the "
                "thread (custom_inputs.thread_id), or the response that asks (previous_response_id).",
                param="input",
            )
        return next(iter(threads), None)

    async def _messages_of(self, turn: Turn) -> Callable[[BaseMessage], bool]:
        """Whether a message is of a turn."""
        jobs = response_ids(await self._ledger.effects(turn.turn_id)).values()
        return lambda message: (
            message.id in turn.message_ids or any(is_of_response(message, id) for id in jobs)
        )


def _decision(item: Item, thread: ThreadSnapshot) -> Decision:
    """What an ``mcp_approval_response`` item decides."""
    id = item["approval_request_id"]
    decision = Decision(approve=item["approve"], by="person")
    if isinstance(item.get("reason"), str) and item["reason"]:
        decision["reason"] = item["reason"]
    interrupt = thread.awaited[id]
    if interrupt is not None and interrupt.value["kind"] != "mcp_approval":
        decision["asked"] = pending_actions(interrupt.value)[id].asked
    return decision


def _not_known() -> ApiError:
    return ApiError(404, "thread_not_found", "The thread is not known.")


def _key_reused() -> ApiError:
    return ApiError(
        422,
        "idempotency_key_reused",
        "This Idempotency-Key was used for another request. Nothing was submitted. Use a new key.",
    )


def _digest(user: str, key: str) -> str:
    """An id for what a user names with an Idempotency-Key."""
    return hashlib.sha256(f"{user}\0{key}".encode()).hexdigest()[:32]
