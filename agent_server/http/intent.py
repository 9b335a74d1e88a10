"""What a request asks of a thread: pure functions of its items and of what the thread holds.

A client sends what is new, or the whole conversation; it edits, regenerates, answers, repeats. What the agent said is
never taken from a client's echo of it. What people said is compared by content, answers and outputs by their ids.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from langchain_core.messages import BaseMessage

from databricks_supervisor.items import Item, message_from_item
from databricks_supervisor.items.history import question_digest
from databricks_supervisor.ledger import Turn

from ..threads import Look
from .errors import ApiError
from .request import CreateRequest, is_input_message
from .thread_index import ThreadIndex


@dataclass(frozen=True, slots=True)
class Reattach:
    """Nothing new is asked: follow the thread's latest turn, or hand out its end.

    Attributes:
        answered: The approval that was answered before with the same request, if it was an answer.
    """

    answered: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerApprovals:
    """Answers to what the thread's turn waits for.

    Attributes:
        decisions: The ``mcp_approval_response`` items.
        more: Messages and outputs that came with them.
    """

    decisions: list[Item]
    more: list[BaseMessage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StartTurn:
    """A question.

    Attributes:
        messages: The question, with what the thread lacks of the conversation before it.
        removals: Ids of the messages that it takes the place of.
        turn_id: The open turn that it is the question of, if it was asked before.
    """

    messages: list[BaseMessage]
    removals: list[str] = field(default_factory=list)
    turn_id: str | None = None


Intent = Reattach | AnswerApprovals | StartTurn


def intent_of(ask: CreateRequest, look: Look, *, after: Callable[[str], bool] | None = None) -> Intent:
    """What a request asks of a thread.

    Args:
        ask: The request.
        look: The thread.
        after: Which messages, by id, are of the turn that ``previous_response_id`` named; ``None`` if it named none.

    Raises:
        ApiError: 400; the request answers what is not asked, or asks nothing.
    """
    kept = ThreadIndex(look)
    if after is not None:
        new, removals = ask.items, kept.following(after)
    elif not look.messages:
        new, removals = ask.items, []
    else:
        new, removals = _new_in(ask, kept)
    decisions, rest = _sorted_answers(new, kept)
    _check_outputs(rest, kept)
    rest = [item for item in _once(rest) if not kept.has(item, without=removals)]
    if decisions:
        return AnswerApprovals(decisions, _messages(rest))
    if not rest:
        # A client that sends the whole conversation ends it with the answer that it gives once more.
        answers = [item for item in [*new, ask.items[-1]] if item.get("type") == "mcp_approval_response"]
        return Reattach(answers[-1]["approval_request_id"]) if answers else _nothing_new(ask, look, kept)
    if look.asked and any(map(_is_output, rest)):
        waiting = ", ".join(look.asked)
        raise _wrong(f"The agent also waits for approval of {waiting}: answer that in the same request.")
    messages = _messages(rest)
    turn = look.turn
    if turn is not None and question_digest(messages) == turn.digest:
        if turn.ended_at is None:
            return StartTurn(
                messages, removals, turn.turn_id
            )  # It may not be in the thread yet, or never come there.
        if _awaits_end(turn, ask):
            return Reattach()
    return StartTurn(messages, removals)


def _new_in(ask: CreateRequest, kept: ThreadIndex) -> tuple[list[Item], list[str]]:
    """What is new in a request, and what it takes the place of."""
    items = ask.items
    said = [
        (index, question_digest(_messages([item])))
        for index, item in enumerate(items)
        if is_input_message(item)
    ]
    known = [digest for _, digest in kept.said]
    same = 0
    while same < min(len(said), len(known)) and said[same][1] == known[same]:
        same += 1
    # Where the agent never spoke, or what it said is left out, only the questions tell.
    begins_alike = 0 < same == min(len(said), len(known))
    whole = any(_is_echo(item) for item in items) or (ask.conversation and begins_alike)
    if not whole or not said:
        return items, []
    if (offset := _window(said, known)) is not None and len(known) - offset > same:
        same = len(known) - offset  # A window of the conversation: it begins later.
        known = known[offset:]
    if same < len(known) and (offset_kept := len(kept.said) - len(known)) >= 0:
        at = same - 1 if same == len(said) else same
        begins = said[at][0]
        removed_from = kept.said[offset_kept + at][0]
        return items[begins:], kept.from_message(removed_from)
    last = said[same - 1][0] if same else -1
    since = kept.said[-1][0] if kept.said and same else 0
    first_new = said[same][0] if same < len(said) else len(items)
    echoed = Counter(kept.decided(since))
    between: list[Item] = []
    for item in items[last + 1 : first_new]:
        match item.get("type"):
            case "function_call_output" if str(item["call_id"]) not in kept.outputs:
                between.append(item)
            case "mcp_approval_response" if echoed[item["approval_request_id"]] <= 0:
                between.append(item)
            case "mcp_approval_response":
                echoed[item["approval_request_id"]] -= 1
    return [*between, *items[first_new:]], []


def _window(said: Sequence[tuple[int, str]], known: Sequence[str]) -> int | None:
    """Where a client's window of the conversation begins, if it has left out the beginning."""
    digests = [digest for _, digest in said]
    for offset in range(1, len(known)):
        rest = known[offset:]
        if digests[: len(rest)] == rest:
            return offset
    return None


def _is_echo(item: Item) -> bool:
    """Whether only the agent's side can have written it."""
    kind = item.get("type", "message")
    return (kind == "message" and item.get("role") == "assistant") or kind in (
        "function_call",
        "mcp_approval_request",
        "reasoning",
    )


def _sorted_answers(new: Sequence[Item], kept: ThreadIndex) -> tuple[list[Item], list[Item]]:
    """The answers that are to be recorded, and everything else. Answers to what was decided already are left out."""
    asked, decided = kept.look.asked, kept.decided()
    requested = {str(item.get("id")) for item in new if item.get("type") == "mcp_approval_request"}
    last_said = max((index for index, item in enumerate(new) if is_input_message(item)), default=-1)
    decisions: list[Item] = []
    rest: list[Item] = []
    for index, item in enumerate(new):
        if item.get("type") != "mcp_approval_response":
            rest.append(item)
            continue
        id = item["approval_request_id"]
        if id in asked:
            if any(d["approval_request_id"] == id and d["approve"] != item["approve"] for d in decisions):
                raise _wrong(f"{id!r} is both approved and refused. Nothing was changed; decide on one.")
            decisions.append(item)
        elif id in requested and index < last_said:
            rest.append(item)  # History of another place.
        elif not decided[id]:
            pending = f"Pending: {', '.join(asked)}." if asked else "Nothing is pending."
            raise _wrong(f"No approval request with id {id!r} waits for an answer. {pending}")
    return decisions, rest


def _check_outputs(new: Sequence[Item], kept: ThreadIndex) -> None:
    """Outputs must belong to calls, and be complete (CONTRACT: Errors to recognise)."""
    called = {str(item.get("call_id")) for item in new if item.get("type") == "function_call"}
    given = {item["call_id"] for item in new if _is_output(item)}
    for id in sorted(given - called - kept.calls.keys() - kept.outputs.keys()):
        raise _wrong(f"No tool call found for function call output with call_id {id!r}.")
    waiting = kept.waiting_calls
    if given & waiting and (missing := sorted(waiting - given)):
        raise _wrong(f"No tool output found for function call {', '.join(missing)}.")


def _once(items: Sequence[Item]) -> list[Item]:
    """Without the calls and outputs that are given twice in a row of them, as the AI SDK's provider does."""
    found: list[Item] = []
    given: set[str] = set()
    for item in items:
        kind = item.get("type")
        if kind not in ("function_call", "function_call_output"):
            given = set() if item.get("type", "message") == "message" else given
        elif (key := f"{kind} {item.get('call_id')}") in given:
            continue
        else:
            given.add(key)
        found.append(item)
    return found


def _is_output(item: Item) -> bool:
    return item.get("type") == "function_call_output"


def _nothing_new(ask: CreateRequest, look: Look, kept: ThreadIndex) -> Intent:
    """The same again: the job that runs, the end that was not delivered, or the last question once more."""
    turn = look.turn
    if turn is None:
        raise _wrong("Nothing is asked: give a message of the user.")
    if turn.ended_at is None or _awaits_end(turn, ask):
        return Reattach()
    if not is_input_message(ask.items[-1]) and not _is_output(ask.items[-1]):
        raise _wrong("Nothing new is asked: the conversation ends with what the agent said.")
    ids = set(turn.message_ids)
    asked = [index for index, message in enumerate(look.messages) if message.id in ids]
    if is_input_message(ask.items[-1]) and kept.said and not any(index in asked for index, _ in kept.said):
        asked = [
            kept.said[-1][0]
        ]  # Not the outputs that the last turn began with, but the question before them.
    if not asked:
        raise _wrong("Nothing new is asked.")
    again = [look.messages[index].model_copy(update={"id": str(uuid.uuid4())}) for index in asked]
    return StartTurn(again, kept.from_message(asked[0]))


def _awaits_end(turn: Turn, ask: CreateRequest) -> bool:
    """Whether a repeat of a turn's question is owed the turn's end: nobody had it, or not when the request came."""
    return turn.ended_at is not None and (turn.delivered_at is None or turn.delivered_at > ask.arrived_at)


def _messages(items: Sequence[Item]) -> list[BaseMessage]:
    """Items of a client as messages, with ids of their own."""
    messages = [message_from_item(item, "input", index) for index, item in enumerate(items)]
    for message in messages:
        message.id = str(uuid.uuid4())
    return messages


def _wrong(message: str) -> ApiError:
    return ApiError(400, "invalid_request", f"{message} Nothing was submitted.", param="input")
