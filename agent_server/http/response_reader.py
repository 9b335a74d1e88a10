"""Finds a response by its public id, and reads it as it is now, from the ledger and the thread's state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from databricks_supervisor import Job, errors
from databricks_supervisor.approvals.interrupts import pending_actions
from databricks_supervisor.items import Item, items_from_message
from databricks_supervisor.ledger import EffectKey, Ledger, Turn, response_ids
from databricks_supervisor.ledger.worker import this_worker

from ..threads import PendingInterrupt, ThreadReader, ThreadSnapshot
from .caller import Caller, thread_name
from .errors import ApiError, api_error_of
from .events import ResponseSnapshot
from .output_items import output_item
from .responses import ResponseRef, graph_request, items_between, parse_public_id, pauses_of


class ResponseReader:
    """Reads responses.

    Args:
        threads: Reads threads.
        ledger: The ledger.
        model: Name of the model, as clients are told.
    """

    def __init__(self, threads: ThreadReader, ledger: Ledger, model: str) -> None:
        self._threads = threads
        self._ledger = ledger
        self._model = model
        self._findable: set[tuple[str, int, str]] = set()

    async def find(self, id: str, caller: Caller) -> ResponseRef:
        """The response of a public id; what is in it is not looked at.

        Raises:
            ApiError: 404; there is no such turn, or it is another user's.
        """
        named = parse_public_id(id)
        turn = await self._ledger.get_turn(named[0]) if named is not None else None
        if named is None or turn is None or turn.position or not caller.owns(turn.thread):
            raise ApiError(404, "response_not_found", f"No response with id {id!r}. Nothing was changed.")
        return ResponseRef(turn, named[1], caller.identity)

    async def latest(self, turn: Turn, identity: str | None) -> ResponseRef:
        """The latest response of a turn.

        Args:
            turn: The turn.
            identity: Name of the identity to follow it as.
        """
        return ResponseRef(turn, len(pauses_of(await self._ledger.effects(turn.turn_id))), identity)

    def queued(self, ref: ResponseRef) -> ResponseSnapshot:
        """A response that has just begun; reads nothing."""
        return self._snapshot(ref, ref.turn.opened_at, "queued")

    async def read(self, ref: ResponseRef) -> ResponseSnapshot:
        """A response as it is now.

        Raises:
            ApiError: 404; the turn has no such response.
        """
        turn = await self._ledger.get_turn(ref.turn.turn_id)
        if turn is None:
            raise ApiError(404, "response_not_found", f"No response {ref.id}: its thread was deleted.")
        thread = await self._threads.read_turn(turn)
        pauses, index = pauses_of(thread.effects), ref.index
        if index > len(pauses):
            raise ApiError(404, "response_not_found", f"No response {ref.id}.")
        start = pauses[index - 1].position if index else 0
        end = pauses[index].position if index < len(pauses) else None
        rounds = response_ids(thread.effects)
        delivered = items_between(thread.messages, rounds, start, end)
        shown = _shown(delivered, thread)
        items = [output_item(item, id, shown) for id, item in delivered]
        created_at = pauses[index - 1].answered_at if index else turn.opened_at
        if end is not None:
            items += [output_item(item, item["id"], shown) for item in pauses[index].asked]
            jobs = [job for round_, job in sorted(rounds.items()) if 2 * round_ < end]
            response_id = jobs[-1] if jobs else None
            return self._snapshot(ref, created_at, "completed", items=items, response_id=response_id)
        if thread.pending:
            await self._make_findable(thread)
            items += [
                output_item(request, id, shown)
                for id, interrupt in thread.pending
                if (request := _graph_request(id, interrupt)) is not None
            ]
        job = thread.own_job or {}
        known: dict[str, Any] = {
            "items": items,
            "response_id": job.get("response_id") or rounds.get(max(rounds, default=-1)),
            "usage": _usage(job.get("usage")),
        }
        # The answers to one job's approvals are one pause: until all are given, the response that the first of them
        # began goes on.
        partly = index > 0 and pauses[-1].key == ("approval", job.get("round", 0))
        return self._latest(ref, thread, created_at, known, partly=partly)

    def _latest(
        self,
        ref: ResponseRef,
        thread: ThreadSnapshot,
        created_at: float,
        known: dict[str, Any],
        *,
        partly: bool,
    ) -> ResponseSnapshot:
        """The turn's last response so far."""
        job, turn = thread.own_job, thread.turn
        assert turn is not None
        if thread.pending:
            pending = [_pending(id, interrupt) for id, interrupt in thread.pending]
            return self._snapshot(ref, created_at, "completed", **known, pending=pending, open=partly)
        if job is not None and job.get("ended") and not thread.own_interrupts:
            return self._ended(ref, job, created_at, known)
        if turn.ended_at is not None and not thread.current:
            # Another message replaced it; what it had asked for was refused.
            status = "completed" if job is not None and job.get("status") == "completed" else "cancelled"
            return self._snapshot(ref, created_at, status, **known, ends_turn=True)
        if turn.ended_at is not None and job is None:
            error = {"code": "given_up", "message": "It was given up before anything was submitted."}
            return self._snapshot(ref, created_at, "cancelled", **known, error=error, ends_turn=True)
        status = "in_progress" if known["response_id"] else "queued"
        return self._snapshot(ref, created_at, status, **known)

    def _ended(
        self, ref: ResponseRef, job: Job, created_at: float, known: dict[str, Any]
    ) -> ResponseSnapshot:
        failure = job.get("failure")
        reason = {"reason": job.get("incomplete") or "max_output_tokens"}
        if failure is None:
            incomplete = job.get("status") == "incomplete"
            details = reason if incomplete else None
            status = "incomplete" if incomplete else "completed"
            return self._snapshot(ref, created_at, status, **known, incomplete=details, ends_turn=True)
        kind = getattr(errors, failure["kind"], errors.SupervisorError)
        told = api_error_of(kind(failure["message"]))
        error = {"code": told.code, "message": failure["message"]}
        refused = told.status if issubclass(kind, errors.ServiceError) else None
        statuses = {"JobCancelledError": "cancelled", "JobIncompleteError": "incomplete"}
        status = statuses.get(failure["kind"], "failed")
        details = reason if status == "incomplete" else None
        return self._snapshot(
            ref, created_at, status, **known, error=error, incomplete=details, ends_turn=True, refused=refused
        )

    def _snapshot(self, ref: ResponseRef, created_at: float, status: str, **known: Any) -> ResponseSnapshot:
        return ResponseSnapshot(
            id=ref.id,
            created_at=created_at,
            model=self._model,
            thread=thread_name(ref.turn.thread),
            status=status,
            **known,
        )

    async def _make_findable(self, thread: ThreadSnapshot) -> None:
        """Let the ledger know what is asked, so that an answer that names no thread finds this one."""
        turn = thread.turn
        if turn is None or turn.ended_at is not None:
            return
        for id, _ in thread.pending:
            round_, key = thread.keys[id]
            known = (turn.turn_id, round_, key)
            if known in self._findable:
                continue
            # A claim that is given back at once: the ledger remembers the id, and the decision is still free.
            effect = await self._ledger.claim(EffectKey(turn.turn_id, round_, "decision", key), this_worker())
            if effect.mine:
                await self._ledger.release(effect.key, effect.attempt)
            self._findable.add(known)


def _shown(delivered: Sequence[tuple[str, Item]], thread: ThreadSnapshot) -> set[str]:
    """Ids of the calls and requests that a client has seen, as far as outputs in the response refer to them."""
    outputs = {item.get("call_id") for _, item in delivered if item.get("type") == "function_call_output"}
    shown = _calls(item for _, item in delivered)
    if outputs <= shown:  # Almost always, and the thread may be long.
        return shown
    return shown | _calls(item for message in thread.messages for item in items_from_message(message))


def _calls(items: Iterable[Item]) -> set[str]:
    keys = {"function_call": "call_id", "mcp_approval_request": "id"}
    found = (item.get(keys[kind]) for item in items if (kind := str(item.get("type"))) in keys)
    return {id for id in found if isinstance(id, str)}


def _graph_request(id: str, interrupt: PendingInterrupt) -> Item | None:
    """The approval request for a question of the graph itself; those of the job are among its items already."""
    if interrupt.value["kind"] == "mcp_approval":
        return None
    return graph_request(id, pending_actions(interrupt.value)[id].asked)


def _pending(id: str, interrupt: PendingInterrupt) -> dict[str, Any]:
    """What waits for a person, as ``custom_outputs.pending`` tells it (docs/wire.md: Approvals)."""
    value = interrupt.value
    action = pending_actions(value)[id]
    pending = {
        "id": id,
        "kind": value["kind"],
        "name": action.name,
        "arguments": action.args,
        "server_label": action.server_label,
        "description": action.description,
    }
    return {**pending, "error": value["error"]} if "error" in value else pending


def _usage(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """Token counts with every field that clients expect."""
    if not given:
        return None
    details = {"input_tokens_details": "cached_tokens", "output_tokens_details": "reasoning_tokens"}
    usage: dict[str, Any] = {
        name: _count(given.get(name)) for name in ("input_tokens", "output_tokens", "total_tokens")
    }
    for name, field in details.items():
        found = given.get(name)
        usage[name] = {field: _count(found.get(field) if isinstance(found, dict) else 0)}
    return usage


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
