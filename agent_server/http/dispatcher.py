"""Dispatcher: from a request to the leg that answers it. What is asked once is submitted once."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable
from typing import Any

from langchain_core.messages import RemoveMessage

from databricks_supervisor.approvals.decisions import (
    DecisionKey,
    conflict,
    first_contradicted,
    record_answer,
)
from databricks_supervisor.approvals.interrupts import pending_actions
from databricks_supervisor.compiled import CompiledSupervisorGraph
from databricks_supervisor.errors import ThreadMovedError, TurnMismatchError
from databricks_supervisor.items import Item, message_from_item
from databricks_supervisor.items.history import question_digest
from databricks_supervisor.ledger import Ledger, Turn
from databricks_supervisor.state import Decision

from ..threads import Look, ThreadReader, config_of
from .background_runs import BackgroundRuns
from .caller import Caller
from .errors import ApiError
from .intent import AnswerApprovals, Reattach, StartTurn, intent_of
from .request import CreateRequest
from .response_reader import ResponseRef
from .responses import parse_public_id, pauses_of, rounds_of

logger = logging.getLogger(__name__)


class Dispatcher:
    """Lets requests in.

    Args:
        graph: The compiled graph.
        ledger: Its ledger.
        threads: Reads threads.
        drives: The drives of this process.
    """

    def __init__(
        self, graph: CompiledSupervisorGraph, ledger: Ledger, threads: ThreadReader, drives: BackgroundRuns
    ) -> None:
        self._graph = graph
        self._ledger = ledger
        self._threads = threads
        self._drives = drives

    async def admit(self, ask: CreateRequest, caller: Caller) -> ResponseRef:
        """The leg that answers a request, under way.

        Args:
            ask: The request.
            caller: Who asks.

        Raises:
            ApiError: The request cannot be let in. Nothing was submitted for it.
            SupervisorError: As the graph's entry raises it.
        """
        if caller.has_new_token:
            self._graph.parts.clients.invalidate(caller.identity)
        while True:
            try:
                return await self._admit(ask, caller)
            except TurnMismatchError:
                if ask.key is None:
                    raise
                raise _reused() from None  # By another request, at this moment.
            except ThreadMovedError:
                continue  # Somebody was quicker: what is asked of the thread as it is now is another matter.

    async def _admit(self, ask: CreateRequest, caller: Caller) -> ResponseRef:
        turn_id = _digest(caller.user, ask.key)[:32] if ask.key is not None else uuid.uuid4().hex
        if ask.key is not None and (known := await self._ledger.get_turn(turn_id)) is not None:
            return await self._repeated(ask, caller, known)
        thread_id, previous = await self._thread(ask, caller)
        look = await self._threads.look(thread_id)
        after = await self._messages_of(previous) if previous is not None and look.turn is not None else None
        match intent_of(ask, look, after=after):
            case StartTurn(messages, removals, asked_before):
                given = {
                    "follows": look.turn.turn_id if look.turn is not None else "",
                    "messages": [*(RemoveMessage(id=id) for id in removals), *messages],
                    "turn_id": asked_before or turn_id,
                    "tools": ask.tools,
                }
                return await self._enter(given, thread_id, caller)
            case AnswerApprovals(decisions, more):
                return await self._answer(look, decisions, more, caller)
            case Reattach(str(answered)):
                return await self._answered(thread_id, answered, ask, caller)
        if look.turn is None:
            raise ApiError(404, "thread_not_found", "The thread is not known.")
        return await self.leg(look.turn, caller)

    async def find(self, id: str, caller: Caller) -> ResponseRef:
        """The leg of a public id.

        Raises:
            ApiError: 404; it does not exist, or is another user's.
        """
        named = parse_public_id(id)
        turn = await self._ledger.get_turn(named[0]) if named is not None else None
        if named is None or turn is None or turn.position or not caller.owns(turn.thread):
            raise ApiError(404, "response_not_found", f"No response with id {id!r}. Nothing was changed.")
        if caller.has_new_token:
            self._graph.parts.clients.invalidate(caller.identity)
        return ResponseRef(turn, named[1], caller.identity)

    async def leg(self, turn: Turn, caller: Caller) -> ResponseRef:
        """The latest leg of a turn."""
        index = len(pauses_of(await self._ledger.effects(turn.turn_id)))
        return ResponseRef(turn, index, caller.identity)

    async def _enter(self, given: dict[str, Any], thread_id: str, caller: Caller) -> ResponseRef:
        context = {"identity": caller.identity}
        entry = await self._graph.aprepare(given, config_of(thread_id), context=context)
        turn = entry.turn
        if turn is None:
            raise RuntimeError("a question belongs to a turn")
        leg = await self.leg(turn, caller)
        own = {message.id for message in given["messages"]}
        self._drives.start(turn, caller.identity, entry, opens=own.issuperset(turn.message_ids))
        if entry.begins:
            await entry.run.stored()  # Who is told an id can rely on it, whatever happens here next.
        return leg

    async def _answer(
        self, look: Look, decisions: list[Item], more: list[Any], caller: Caller
    ) -> ResponseRef:
        turn = look.turn
        if turn is None or look.job is None:
            raise ApiError(404, "thread_not_found", "The thread is not known.")
        keys = (await self._threads.look_at_turn(turn)).keys
        if (driven := self._drives.get(turn.turn_id)) is not None:
            driven.more += more  # Before the answers: it may see them at any moment.
        answer: dict[DecisionKey, Decision] = {}
        for item in decisions:
            id = item["approval_request_id"]
            question = look.asked[id]
            given = Decision(approve=item["approve"], by="person")
            if isinstance(item.get("reason"), str) and item["reason"]:
                given["reason"] = item["reason"]
            if question is not None and question.value["kind"] != "mcp_approval":
                given["asked"] = pending_actions(question.value)[id].asked
            answer[keys.get(id, (look.job["round"], id))] = given
        standing = await record_answer(self._ledger, turn.turn_id, answer)
        leg = await self.leg(turn, caller)
        drive = self._drives.start(turn, caller.identity)
        if drive is not driven:
            drive.more += more
        if (contradicted := first_contradicted(answer, standing)) is not None:
            logger.warning("event=decision_conflict turn=%s id=%s", turn.turn_id, contradicted[1])
            id = next(id for id in look.asked if keys.get(id, (look.job["round"], id)) == contradicted)
            text = conflict(id, standing[contradicted]["approve"])
            raise ApiError(409, "already_decided", f"{text} What came of it is response {leg.id!r}.")
        return leg

    async def _answered(
        self, thread_id: str, approval_id: str, ask: CreateRequest, caller: Caller
    ) -> ResponseRef:
        """The leg that an answer began when it came first."""
        given = {i.get("approve") for i in ask.items if i.get("approval_request_id") == approval_id}
        for turn in await self._ledger.turns_with_effect("decision", approval_id):
            effects = await self._ledger.effects(turn.turn_id) if turn.thread == thread_id else []
            made = [each for each in effects if (each.key.kind, each.key.id) == ("decision", approval_id)]
            stood = {
                bool(each.outcome["approve"]) for each in made if each.outcome and "approve" in each.outcome
            }
            if stood and given.isdisjoint(stood):
                raise ApiError(409, "already_decided", conflict(approval_id, stood.pop()))
            rounds = {("approval", each.key.round) for each in effects if each.key.id == approval_id}
            for index, pause in enumerate(pauses_of(effects)):
                if pause.key in rounds or pause.key[0] == approval_id:
                    return ResponseRef(turn, index + 1, caller.identity)
        raise ApiError(409, "already_decided", f"{approval_id} was decided on before. Nothing was changed.")

    async def _repeated(self, ask: CreateRequest, caller: Caller, turn: Turn) -> ResponseRef:
        """A request whose Idempotency-Key is known: the same turn, whatever the thread has done since."""
        messages = [message_from_item(item, "input", index) for index, item in enumerate(ask.items)]
        if question_digest(messages) != turn.digest:
            raise _reused()
        return ResponseRef(turn, 0, caller.identity)

    async def _thread(self, ask: CreateRequest, caller: Caller) -> tuple[str, Turn | None]:
        """LangGraph's id of the request's thread, and the turn that ``previous_response_id`` names."""
        previous = (await self.find(ask.previous, caller)).turn if ask.previous is not None else None
        if ask.thread is not None:
            thread_id = caller.thread(ask.thread)
            if previous is not None and previous.thread != thread_id:
                raise ApiError(
                    400,
                    "invalid_request",
                    "previous_response_id is of another thread than the one that is named. Nothing was submitted.",
                    param="previous_response_id",
                )
            return thread_id, previous
        if previous is not None:
            return previous.thread, previous
        for item in reversed(ask.items):
            if item.get("type") == "mcp_approval_response":
                asked_in = await self._thread_of(item["approval_request_id"], caller)
                if asked_in is not None:
                    return asked_in, None
        name = f"key-{_digest(caller.user, ask.key)[:32]}" if ask.key is not None else uuid.uuid4().hex
        return caller.thread(name), None

    async def _thread_of(self, approval_id: str, caller: Caller) -> str | None:
        """The thread that an approval was asked for in; ids need not be unique, ``resubmit_1`` is not."""
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

    async def _messages_of(self, turn: Turn) -> Callable[[str], bool]:
        """Which messages, by id, are of a turn."""
        own = set(turn.message_ids)
        prefixes = tuple(f"{id}:" for id in rounds_of(await self._ledger.effects(turn.turn_id)).values())
        return lambda id: id in own or id.startswith(prefixes)


def _reused() -> ApiError:
    return ApiError(
        422,
        "idempotency_key_reused",
        "This Idempotency-Key was used for another request. Nothing was submitted. Use a new key.",
    )


def _digest(user: str, key: str | None) -> str:
    return hashlib.sha256(f"{user}\0{key}".encode()).hexdigest()
