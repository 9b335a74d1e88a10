"""What a request asks of a thread: pure functions of the request's items and of the thread.

A client sends what is new, or the whole conversation; it edits, regenerates, answers, repeats. What the agent said is
never taken from a client's copy of it. Messages of people are compared by content, answers and outputs by their ids
(docs/wire.md: What clients need).
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from langchain_core.messages import BaseMessage

from databricks_supervisor.items import Item, message_from_item
from databricks_supervisor.items.history import question_digest
from databricks_supervisor.ledger import Turn

from ..threads import ThreadSnapshot
from .errors import invalid_request
from .request import CreateRequest
from .thread_index import ThreadIndex, is_input_message


@dataclass(frozen=True, slots=True)
class Reattach:
    """Nothing new is asked: the response to what was asked before is given.

    Attributes:
        answered: The approval that the same request answered before; ``None`` for the thread's latest turn.
    """

    answered: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerApprovals:
    """Approvals that the thread's latest turn waits for are answered.

    Attributes:
        decisions: The ``mcp_approval_response`` items.
        extra_messages: Messages and outputs that came with them.
    """

    decisions: list[Item]
    extra_messages: list[BaseMessage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StartTurn:
    """A question is asked.

    Attributes:
        messages: The question, with what the thread lacks of the conversation before it.
        removals: Ids of the messages that it replaces.
        turn_id: The open turn that this question has already, if it was asked before.
    """

    messages: list[BaseMessage]
    removals: list[str] = field(default_factory=list)
    turn_id: str | None = None


Intent = Reattach | AnswerApprovals | StartTurn
_wrong = partial(invalid_request, param="input")


def intent_of(
    request: CreateRequest,
    thread: ThreadSnapshot,
    *,
    of_previous: Callable[[BaseMessage], bool] | None = None,
) -> Intent:
    """What a request asks of a thread.

    Args:
        request: The request.
        thread: The thread, with its latest turn.
        of_previous: Whether a message is of the turn that ``previous_response_id`` names; ``None`` if none is named.

    Raises:
        ApiError: 400; the request answers what is not asked, or asks nothing.
    """
    index = ThreadIndex(thread)
    if of_previous is not None:
        new, removals = request.items, index.after(of_previous)
    elif not thread.messages:
        new, removals = request.items, []
    else:
        new, removals = _new_in(request, index)
    decisions, rest = _separate_answers(new, index)
    _check_outputs(rest, index)
    rest = [item for item in _without_repeats(rest) if not index.has(item, without=removals)]
    if decisions:
        return AnswerApprovals(decisions, _messages(rest))
    if not rest:
        # A client that sends the whole conversation ends it with the answer that it repeats.
        answers = [item for item in [*new, request.items[-1]] if item.get("type") == "mcp_approval_response"]
        return Reattach(answers[-1]["approval_request_id"]) if answers else _nothing_new(request, index)
    if thread.awaited and any(map(_is_output, rest)):
        waiting = ", ".join(thread.awaited)
        raise _wrong(f"The agent also waits for approval of {waiting}: answer that in the same request.")
    messages = _messages(rest)
    turn = thread.turn
    if turn is not None and question_digest(messages) == turn.digest:
        if turn.ended_at is None:
            # It may not be in the thread yet, and its process may have died before it could put it there.
            return StartTurn(messages, removals, turn.turn_id)
        if _awaits_end(turn, request):
            return Reattach()
    return StartTurn(messages, removals)


def _new_in(request: CreateRequest, index: ThreadIndex) -> tuple[list[Item], list[str]]:
    """The new items of a request, and ids of the messages that they replace."""
    items = request.items
    sent = [
        (at, question_digest(_messages([item]))) for at, item in enumerate(items) if is_input_message(item)
    ]
    known = [digest for _, digest in index.inputs]
    same = 0
    while same < min(len(sent), len(known)) and sent[same][1] == known[same]:
        same += 1
    # If the agent has said nothing, or the client leaves out what it said, there are only questions to compare.
    begins_alike = 0 < same == min(len(sent), len(known))
    whole = any(_is_echo(item) for item in items) or (request.conversation and begins_alike)
    if not whole or not sent:
        return items, []
    if (offset := _window(sent, known)) is not None and len(known) - offset > same:
        same = len(known) - offset  # The client has left out the beginning of the conversation.
        known = known[offset:]
    if same < len(known) and (left_out := len(index.inputs) - len(known)) >= 0:
        at = same - 1 if same == len(sent) else same
        return items[sent[at][0] :], index.from_message(index.inputs[left_out + at][0])
    last = sent[same - 1][0] if same else -1
    since = index.inputs[-1][0] if index.inputs and same else 0
    first_new = sent[same][0] if same < len(sent) else len(items)
    echoed = Counter(index.decided(since))
    between: list[Item] = []
    for item in items[last + 1 : first_new]:
        match item.get("type"):
            case "function_call_output" if str(item["call_id"]) not in index.outputs:
                between.append(item)
            case "mcp_approval_response" if echoed[item["approval_request_id"]] <= 0:
                between.append(item)
            case "mcp_approval_response":
                echoed[item["approval_request_id"]] -= 1
    return [*between, *items[first_new:]], []


def _window(sent: Sequence[tuple[int, str]], known: Sequence[str]) -> int | None:
    """How many messages at the beginning of the conversation a client has left out; ``None`` if it has not."""
    digests = [digest for _, digest in sent]
    for offset in range(1, len(known)):
        rest = known[offset:]
        if digests[: len(rest)] == rest:
            return offset
    return None


def _is_echo(item: Item) -> bool:
    """Whether an item can only be a copy of what the agent said."""
    kind = item.get("type", "message")
    return (kind == "message" and item.get("role") == "assistant") or kind in (
        "function_call",
        "mcp_approval_request",
        "reasoning",
    )


def _separate_answers(new: Sequence[Item], index: ThreadIndex) -> tuple[list[Item], list[Item]]:
    """The answers to record, and all other items; without answers to what was decided already."""
    awaited, decided = index.thread.awaited, index.decided()
    requested = {str(item.get("id")) for item in new if item.get("type") == "mcp_approval_request"}
    last_message = max((at for at, item in enumerate(new) if is_input_message(item)), default=-1)
    decisions: list[Item] = []
    rest: list[Item] = []
    for at, item in enumerate(new):
        if item.get("type") != "mcp_approval_response":
            rest.append(item)
            continue
        id = item["approval_request_id"]
        if id in awaited:
            if any(d["approval_request_id"] == id and d["approve"] != item["approve"] for d in decisions):
                raise _wrong(f"{id!r} is both approved and refused. Nothing was changed; decide on one.")
            decisions.append(item)
        elif id in requested and at < last_message:
            rest.append(item)  # History of another thread, brought along.
        elif not decided[id]:
            pending = f"Pending: {', '.join(awaited)}." if awaited else "Nothing is pending."
            raise _wrong(f"No approval request with id {id!r} waits for an answer. {pending}")
    return decisions, rest


def _check_outputs(new: Sequence[Item], index: ThreadIndex) -> None:
    """Outputs must belong to calls, and be complete (docs/wire.md: Client-side functions)."""
    called = {str(item.get("call_id")) for item in new if item.get("type") == "function_call"}
    given = {item["call_id"] for item in new if _is_output(item)}
    for id in sorted(given - called - index.calls.keys() - index.outputs.keys()):
        raise _wrong(f"No tool call found for function call output with call_id {id!r}.")
    waiting = index.waiting_calls
    if given & waiting and (missing := sorted(waiting - given)):
        raise _wrong(f"No tool output found for function call {', '.join(missing)}.")


def _without_repeats(items: Sequence[Item]) -> list[Item]:
    """Without calls and outputs that come twice before the next message: the AI SDK's provider sends them twice."""
    found: list[Item] = []
    given: set[str] = set()
    for item in items:
        kind = item.get("type", "message")
        if kind not in ("function_call", "function_call_output"):
            given = set() if kind == "message" else given
        elif (key := f"{kind} {item.get('call_id')}") in given:
            continue
        else:
            given.add(key)
        found.append(item)
    return found


def _is_output(item: Item) -> bool:
    return item.get("type") == "function_call_output"


def _nothing_new(request: CreateRequest, index: ThreadIndex) -> Intent:
    """The same again: the job that runs, the end that was not delivered, or the last question asked once more."""
    thread, turn, last = index.thread, index.thread.turn, request.items[-1]
    if turn is None:
        raise _wrong("Nothing is asked: give a message of the user.")
    if turn.ended_at is None or _awaits_end(turn, request):
        return Reattach()
    if not is_input_message(last) and not _is_output(last):
        raise _wrong("Nothing new is asked: the conversation ends with what the agent said.")
    asked = [at for at, message in enumerate(thread.messages) if message.id in turn.message_ids]
    if is_input_message(last) and index.inputs and not any(at in asked for at, _ in index.inputs):
        # The last turn began with outputs: what is repeated is the question before them.
        asked = [index.inputs[-1][0]]
    if not asked:
        raise _wrong("Nothing new is asked.")
    again = [thread.messages[at].model_copy(update={"id": str(uuid.uuid4())}) for at in asked]
    return StartTurn(again, index.from_message(asked[0]))


def _awaits_end(turn: Turn, request: CreateRequest) -> bool:
    """Whether a repeated question gets the turn's end: it was not delivered before the request came."""
    return turn.ended_at is not None and (turn.delivered_at is None or turn.delivered_at > request.arrived_at)


def _messages(items: Sequence[Item]) -> list[BaseMessage]:
    """Items of a client as messages, with ids of their own."""
    messages = [message_from_item(item, "input", position) for position, item in enumerate(items)]
    for message in messages:
        message.id = str(uuid.uuid4())
    return messages
