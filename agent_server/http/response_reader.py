"""A leg as it is now, read from the ledger and the thread's state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from databricks_supervisor import Job, errors
from databricks_supervisor.items import Item, items_from_message
from databricks_supervisor.ledger import EffectKey, Ledger, Turn
from databricks_supervisor.ledger.worker import this_worker

from ..threads import Question, ThreadReader, TurnLook
from .caller import Caller
from .errors import ApiError, api_error_of
from .events import ResponseSnapshot
from .output_items import output_item
from .responses import items_between, public_id, synthetic_request


@dataclass(frozen=True, slots=True)
class ResponseRef:
    """What one public id names.

    Attributes:
        turn: The turn.
        index: Which of its legs, 0-based.
        identity: Name of the identity that whoever follows it acts as.
    """

    turn: Turn
    index: int
    identity: str | None

    @property
    def id(self) -> str:
        """The public id."""
        return public_id(self.turn.turn_id, self.index)


class ResponseReader:
    """Reads legs.

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

    def begun(self, leg: ResponseRef) -> ResponseSnapshot:
        """A leg of which nothing is known but that it began; reads nothing."""
        return self._view(leg, leg.turn.opened_at, "queued")

    async def view(self, leg: ResponseRef) -> ResponseSnapshot:
        """A leg as it is now.

        Raises:
            ApiError: 404; the turn has no such leg.
        """
        turn = await self._ledger.get_turn(leg.turn.turn_id)
        if turn is None:
            raise ApiError(404, "response_not_found", f"No response {leg.id}: its thread was deleted.")
        look = await self._threads.look_at_turn(turn)
        pauses, index = look.pauses, leg.index
        if index > len(pauses):
            raise ApiError(404, "response_not_found", f"No response {leg.id}.")
        start = pauses[index - 1].position if index else 0
        end = pauses[index].position if index < len(pauses) else None
        delivered = items_between(look.messages, look.rounds, start, end)
        shown = _shown(delivered, look)
        items = [output_item(item, id, shown) for id, item in delivered]
        created_at = pauses[index - 1].answered_at if index else turn.opened_at
        if end is not None:
            items += [output_item(item, item["id"], shown) for item in pauses[index].asked]
            jobs = [job for round_, job in sorted(look.rounds.items()) if 2 * round_ < end]
            response_id = jobs[-1] if jobs else None
            return self._view(leg, created_at, "completed", items=items, response_id=response_id)
        pending = look.pending
        if pending:
            await self._make_findable(look, [id for id, _ in pending])
            items += [
                output_item(request, id, shown)
                for id, question in pending
                if (request := _request(id, question)) is not None
            ]
        return self._latest(leg, look, created_at, items)

    def _latest(
        self, leg: ResponseRef, look: TurnLook, created_at: float, items: list[Item]
    ) -> ResponseSnapshot:
        job, turn = look.job, look.turn
        known: dict[str, Any] = {
            "items": items,
            "response_id": (job or {}).get("response_id") or look.rounds.get(max(look.rounds, default=-1)),
            "usage": _usage(job),
        }
        if look.pending:
            asked = [_pending(id, question) for id, question in look.pending]
            round_ = job["round"] if job is not None else 0
            partly = leg.index > 0 and look.pauses[-1].key == ("approval", round_)
            return self._view(leg, created_at, "completed", **known, pending=asked, open=partly)
        if job is not None and job.get("ended") and not look.questions:
            return self._ended(leg, job, created_at, known)
        if turn.ended_at is not None and not look.current:
            # Another message took its place; what it had asked was refused.
            status = "completed" if job is not None and job.get("status") == "completed" else "cancelled"
            return self._view(leg, created_at, status, **known, ends_turn=True)
        if turn.ended_at is not None and job is None:
            error = {"code": "given_up", "message": "It was given up before anything was submitted."}
            return self._view(leg, created_at, "cancelled", **known, error=error, ends_turn=True)
        submitted = bool(known["response_id"])
        return self._view(leg, created_at, "in_progress" if submitted else "queued", **known)

    def _ended(
        self, leg: ResponseRef, job: Job, created_at: float, known: dict[str, Any]
    ) -> ResponseSnapshot:
        failure = job.get("failure")
        reason = {"reason": job.get("incomplete") or "max_output_tokens"}
        if failure is None:
            incomplete = job.get("status") == "incomplete"
            details = reason if incomplete else None
            status = "incomplete" if incomplete else "completed"
            return self._view(leg, created_at, status, **known, incomplete=details, ends_turn=True)
        kind = getattr(errors, failure["kind"], errors.SupervisorError)
        fault = api_error_of(kind(failure["message"]))
        error = {"code": fault.code, "message": failure["message"]}
        refused = fault.status if issubclass(kind, errors.ServiceError) else None
        statuses = {"JobCancelledError": "cancelled", "JobIncompleteError": "incomplete"}
        status = statuses.get(failure["kind"], "failed")
        details = reason if status == "incomplete" else None
        return self._view(
            leg, created_at, status, **known, error=error, incomplete=details, ends_turn=True, refused=refused
        )

    def _view(self, leg: ResponseRef, created_at: float, status: str, **known: Any) -> ResponseSnapshot:
        return ResponseSnapshot(
            id=leg.id,
            created_at=created_at,
            model=self._model,
            thread=Caller.name_of(leg.turn.thread),
            status=status,
            **known,
        )

    async def _make_findable(self, look: TurnLook, ids: Sequence[str]) -> None:
        """Let the ledger know what waits, so that an answer that names no thread is brought to it."""
        for id in ids:
            known = (look.turn.turn_id, *look.keys[id])
            if known in self._findable or look.turn.ended_at is not None:
                continue
            turn_id, round_, key = known
            # A claim that is given back at once: it leaves a trace, and nothing that stands in the way.
            effect = await self._ledger.claim(EffectKey(turn_id, round_, "decision", key), this_worker())
            if effect.mine:
                await self._ledger.release(effect.key, effect.attempt)
            self._findable.add(known)


def _shown(delivered: Sequence[tuple[str, Item]], look: TurnLook) -> set[str]:
    """Ids of the calls and requests that a client has seen, as far as outputs in the leg refer to them."""
    outputs = {item.get("call_id") for _, item in delivered if item.get("type") == "function_call_output"}
    shown = _calls(item for _, item in delivered)
    if outputs <= shown:  # Almost always, and the thread may be long.
        return shown
    return shown | _calls(item for message in look.messages for item in items_from_message(message))


def _calls(items: Iterable[Item]) -> set[str]:
    keys = {"function_call": "call_id", "mcp_approval_request": "id"}
    found = (item.get(keys[kind]) for item in items if (kind := str(item.get("type"))) in keys)
    return {id for id in found if isinstance(id, str)}


def _request(id: str, question: Question) -> Item | None:
    """The approval request that stands for a question of the graph itself; the job's own are items already."""
    value = question.value
    if value["kind"] == "mcp_approval":
        return None
    action = value["action_requests"][value["ids"].index(id)]
    return synthetic_request(id, {"name": action["name"], "args": action["args"]})


def _pending(id: str, question: Question) -> dict[str, Any]:
    value = question.value
    index = value["ids"].index(id)
    action = value["action_requests"][index]
    pending = {
        "id": id,
        "kind": value["kind"],
        "name": action["name"],
        "arguments": action["args"],
        "server_label": value["server_labels"][index],
        "description": action["description"],
    }
    return {**pending, "error": value["error"]} if "error" in value else pending


def _usage(job: Job | None) -> dict[str, Any] | None:
    """Token counts with every field that clients expect."""
    given = (job or {}).get("usage")
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
