"""Finds a response by its public id, and reads it as it is now, from the ledger and the thread's state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
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
        model: Name of the model, as clients are told.
    """

    def __init__(self, threads: ThreadReader, ledger: Ledger, model: str) -> None:
        self._threads = threads
        self._ledger = ledger
        self._model = model
        self._findable: set[tuple[str, int, str]] = set()

    async def find(self, id: str, caller: Caller) -> ResponseRef:
        """The response of a public id, not read yet.

        Raises:
            ApiError: 404; there is no such turn, or it is another user's.
        """
        named = parse_public_id(id)
        turn = await self._ledger.get_turn(named[0]) if named is not None else None
        if named is None or turn is None or turn.position or not caller.owns(turn.thread):
            raise ApiError(404, "response_not_found", f"No response with id {id!r}. Nothing was changed.")
        return ResponseRef(turn, named[1], caller.identity)

    async def latest(self, turn: Turn, identity: str | None) -> ResponseRef:
        """The latest response of a turn, to be followed as an identity."""
        return ResponseRef(turn, len(pauses_of(await self._ledger.effects(turn.turn_id))), identity)

    def queued(self, ref: ResponseRef) -> ResponseSnapshot:
        """A response that has just begun; reads nothing."""
        thread = thread_name(ref.turn.thread)
        return ResponseSnapshot(ref.id, ref.turn.opened_at, self._model, thread, "queued")

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
        before = pauses[index - 1] if index else None
        after = pauses[index] if index < len(pauses) else None
        jobs = response_ids(thread.effects)
        delivered = items_between(
            thread.messages, jobs, before.position if before else 0, after.position if after else None
        )
        requests = after.asked if after is not None else _graph_requests(thread)
        shown = _shown(delivered, thread)
        items = [output_item(item, id, shown) for id, item in delivered]
        items += [output_item(item, item["id"], shown) for item in requests]
        snapshot = replace(
            self.queued(ref), created_at=before.answered_at if before else turn.opened_at, items=items
        )
        if after is not None:
            until = [job for round_, job in sorted(jobs.items()) if 2 * round_ < after.position]
            return replace(snapshot, status="completed", response_id=until[-1] if until else None)
        await self._make_findable(thread)
        job: Job = thread.own_job or {}
        response_id = job.get("response_id") or jobs.get(max(jobs, default=-1))
        snapshot = replace(snapshot, response_id=response_id, usage=_usage(job.get("usage")))
        if not thread.pending:
            return replace(snapshot, **_progress(thread, submitted=bool(response_id)))
        # All answers to one job's approvals are one pause: the response that the first of them began is not complete.
        partly = before is not None and before.key == ("approval", job.get("round", 0))
        pending = [_pending(id, interrupt) for id, interrupt in thread.pending]
        return replace(snapshot, status="completed", pending=pending, open=partly)

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


def _progress(thread: ThreadSnapshot, *, submitted: bool) -> dict[str, Any]:
    """How a turn that waits for nobody stands: fields of the response that it is at."""
    job, turn = thread.own_job, thread.turn
    if job is not None and job.get("ended") and not thread.own_interrupts:
        return {**_end(job), "ends_turn": True}
    ended = turn is not None and turn.ended_at is not None
    if ended and not thread.current:
        # Another message replaced it; what it had asked for was refused.
        answered = job is not None and job.get("status") == "completed"
        return {"status": "completed" if answered else "cancelled", "ends_turn": True}
    if ended and job is None:
        error = {"code": "given_up", "message": "It was given up before anything was submitted."}
        return {"status": "cancelled", "error": error, "ends_turn": True}
    return {"status": "in_progress" if submitted else "queued"}


def _end(job: Job) -> dict[str, Any]:
    """How a job ended: fields of its response."""
    failure = job.get("failure")
    incomplete = {"reason": job.get("incomplete") or "max_output_tokens"}
    if failure is None:
        is_incomplete = job.get("status") == "incomplete"
        return (
            {"status": "incomplete", "incomplete": incomplete} if is_incomplete else {"status": "completed"}
        )
    kind = getattr(errors, failure["kind"], errors.SupervisorError)
    error = api_error_of(kind(failure["message"]))
    statuses = {"JobCancelledError": "cancelled", "JobIncompleteError": "incomplete"}
    status = statuses.get(failure["kind"], "failed")
    return {
        "status": status,
        "error": {"code": error.code, "message": failure["message"]},
        "incomplete": incomplete if status == "incomplete" else None,
        "refused": error.status if issubclass(kind, errors.ServiceError) else None,
    }


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


def _graph_requests(thread: ThreadSnapshot) -> list[Item]:
    """What the graph itself asks, as approval requests; those of the job are among its items already."""
    return [
        graph_request(id, pending_actions(interrupt.value)[id].asked)
        for id, interrupt in thread.pending
        if interrupt.value["kind"] != "mcp_approval"
    ]


def _pending(id: str, interrupt: PendingInterrupt) -> dict[str, Any]:
    """What waits for a person, as an entry of ``custom_outputs.pending``."""
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
