"""A thread as the server holds it, grown turn by turn, and what clients send of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import BaseMessage

from agent_server.http.intent import AnswerApprovals, Intent, Reattach, StartTurn, intent_of
from agent_server.http.output_items import output_item
from agent_server.http.request import CreateRequest
from agent_server.threads import PendingInterrupt, ThreadSnapshot
from databricks_supervisor import Job
from databricks_supervisor.approvals.interrupts import approval_action, interrupt_value
from databricks_supervisor.items import Item, items_from_message, message_from_item
from databricks_supervisor.items.history import question_digest
from databricks_supervisor.ledger import Effect, EffectKey, Turn


def user(text: str) -> Item:
    """A message of a person."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def system(text: str) -> Item:
    """A message of the system."""
    return {"type": "message", "role": "system", "content": text}


def said(text: str, id: str | None = None) -> Item:
    """A message of the agent."""
    return {
        "type": "message",
        "id": id or f"msg_{uuid.uuid4().hex[:6]}",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }


def call(id: str, name: str = "f", arguments: str = '{"a": 1}') -> Item:
    """A call of a function."""
    return {"type": "function_call", "id": f"fc_{id}", "call_id": id, "name": name, "arguments": arguments}


def output(id: str, text: str = "42") -> Item:
    """What a function gave back."""
    return {"type": "function_call_output", "call_id": id, "output": text}


def request(id: str, name: str = "publish") -> Item:
    """An approval request."""
    return {
        "type": "mcp_approval_request",
        "id": id,
        "name": name,
        "server_label": "reports",
        "arguments": '{"to": "ann"}',
    }


def response(id: str, approve: bool = True) -> Item:
    """An answer to an approval request."""
    return {"type": "mcp_approval_response", "id": id, "approval_request_id": id, "approve": approve}


def ask(*items: Item, **more: Any) -> CreateRequest:
    """A request with these items."""
    return CreateRequest(list(items), thread="t", **more)


class Thread:
    """A thread.

    Attributes:
        snapshot: The thread as the server reads it.
        shown: Every item that its client has seen or sent, in order.
    """

    def __init__(self) -> None:
        self.snapshot = ThreadSnapshot()
        self.shown: list[Item] = []
        self._turns = 0
        self._round = 0

    def intent(self, request: CreateRequest) -> Intent:
        """What a request asks of it."""
        return intent_of(request, self.snapshot)

    def turn(self, *reply: Item, asked: Sequence[Item], delivered: bool = True) -> Thread:
        """A client asks, and the agent replies."""
        return self.ask(*asked).reply(*reply, delivered=delivered)

    def ask(self, *items: Item, tools: Sequence[str] = ("f",)) -> Thread:
        """A turn begins."""
        intent = self.intent(ask(*items))
        assert isinstance(intent, StartTurn)
        return self.begin(intent, items, tools)

    def begin(self, intent: StartTurn, items: Sequence[Item] = (), tools: Sequence[str] = ("f",)) -> Thread:
        """A turn begins with what a request asks."""
        self._turns += 1
        self._round = 0
        id = f"turn{self._turns}"
        gone = set(intent.removals)
        kept = [message for message in self.snapshot.messages if message.id not in gone]
        job = Job(
            turn_id=id,
            round=0,
            response_id=None,
            ended=False,
            tools=[{"type": "function", "name": t} for t in tools],
        )
        turn = Turn(
            id,
            "/t",
            "",
            None,
            question_digest(intent.messages),
            tuple(str(message.id) for message in intent.messages),
            opened_at=float(self._turns),
        )
        self.shown += items
        self.snapshot = ThreadSnapshot(True, [*kept, *intent.messages], job, [], turn, [])
        return self

    def reply(self, *items: Item, delivered: bool = True) -> Thread:
        """The job delivers items, and ends; at approval requests it waits."""
        response_id = f"resp_{self._turns}_{self._round}"
        messages = [message_from_item(item, response_id, index) for index, item in enumerate(items)]
        calls = {item["call_id"] for item in [*self.shown, *items] if item.get("type") == "function_call"}
        self.shown += [output_item(item, f"{response_id}:{index}", calls) for index, item in enumerate(items)]
        asked = [item for item in items if item.get("type") == "mcp_approval_request"]
        turn, job = self.snapshot.turn, self.snapshot.job
        assert turn is not None
        assert job is not None
        value = interrupt_value("mcp_approval", [approval_action(item) for item in asked], response_id)
        if not asked:
            turn = replace(turn, ended_at=9.0, delivered_at=10.0 if delivered else None)
        self.snapshot = replace(
            self.snapshot,
            messages=[*self.snapshot.messages, *messages],
            job={**job, "ended": not asked, "response_id": response_id, "round": self._round},
            interrupts=[PendingInterrupt("i", value)] if asked else [],
            turn=turn,
        )
        return self

    def record(self, intent: AnswerApprovals) -> Thread:
        """Answers are in the ledger; the graph does not know of them yet."""
        assert self.snapshot.turn is not None
        effects = [
            Effect(
                EffectKey(self.snapshot.turn.turn_id, self._round, "decision", item["approval_request_id"]),
                attempt=1,
                worker="w",
                claimed_at=5.0,
                age=0.0,
                outcome={"approve": item["approve"], "by": "person"},
            )
            for item in intent.decisions
        ]
        self.snapshot = replace(self.snapshot, effects=[*self.snapshot.effects, *effects])
        return self

    def decide(self, intent: AnswerApprovals, items: Sequence[Item] = ()) -> Thread:
        """All that waits is answered, and the job goes on."""
        self.record(intent)
        prefix = f"resp_{self._turns}_{self._round}:0:decision"
        decisions = [message_from_item(item, prefix, index) for index, item in enumerate(intent.decisions)]
        self.shown += items
        self._round += 1
        self.snapshot = replace(
            self.snapshot,
            messages=[*self.snapshot.messages, *decisions, *intent.extra_messages],
            interrupts=[],
            job=self.snapshot.job,
        )
        return self

    @property
    def texts(self) -> list[str]:
        """What its messages say."""
        return [message.text for message in self.snapshot.messages]


def sketch(intent: Intent) -> Any:
    """An intent without what differs from one time to another."""
    match intent:
        case StartTurn(messages, removals):
            return ("new", _items(messages), removals)
        case AnswerApprovals(decisions, extra_messages):
            return (
                "answer",
                [(each["approval_request_id"], each["approve"]) for each in decisions],
                _items(extra_messages),
            )
        case Reattach(answered):
            return ("attach", answered)


def _items(messages: Sequence[BaseMessage]) -> list[Item]:
    return [item for message in messages for item in items_from_message(message)]
