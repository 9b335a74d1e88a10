"""One consistent story per call: at most one call, one output after it, or a request and its answer.

The same call can be in a conversation as an approval request, as the decision on it, as a function call and
as an output, all with one id (CONTRACT: The turn after an approval), while the service wants one result for
each: "each tool_use must have a single result" (CONTRACT: MCP approvals).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Item = dict[str, Any]

MAX_ID: Final = 64
NOT_RUN: Final = "No output: the call was not run."
REFUSED: Final = "No output: the call was refused."
LOST: Final = "No output: the call was approved, and the turn ended before its result arrived."

_ID_KEYS: Final = ("id", "call_id", "approval_request_id")
_CALL_KEYS: Final = {
    "function_call": "call_id",
    "function_call_output": "call_id",
    "mcp_approval_request": "id",
    "mcp_approval_response": "approval_request_id",
}


@dataclass(slots=True, eq=False)
class CallRecord:
    """What the conversation says about one call id; of each kind the first, of outputs the last."""

    call: Item | None = None
    request: Item | None = None
    response: Item | None = None
    output: Item | None = None
    begun: bool = False
    ended: bool = False

    def add(self, item: Item) -> None:
        match item["type"]:
            case "function_call":
                self.call = self.call or item
            case "mcp_approval_request":
                self.request = self.request or item
            case "mcp_approval_response":
                self.response = self.response or item
            case _:
                self.output = item

    def is_over_before(self, item: Item) -> bool:
        """Whether an item with this call's id begins another story."""
        match item["type"]:
            case "function_call":
                return self.output is not None and self.begins
            case "mcp_approval_request":
                answered = self.request is not None and self.response is not None
                return answered or (self.output is not None and self.begins)
        return False

    @property
    def begins(self) -> bool:
        """Whether it has a beginning."""
        return self.call is not None or self.request is not None

    @property
    def name(self) -> str:
        """The id of the call, by the request for its approval."""
        return str((self.request or {}).get("id", ""))

    @property
    def is_decided(self) -> bool:
        """Answered by a person and not carried out: the service needs to see request and answer."""
        return self.request is not None and self.response is not None and self.output is None

    def start(self) -> Item | None:
        if self.is_decided:
            return self.request
        if self.call is None and self.request is not None and self.output is not None:
            kept = {key: self.request[key] for key in ("name", "arguments")}
            return {"type": "function_call", "call_id": self.request["id"], **kept}
        return self.call

    def end(self) -> Item | None:
        if self.is_decided:
            return self.response
        if self.call is not None and self.output is None:
            return {"type": "function_call_output", "call_id": self.call["call_id"], "output": NOT_RUN}
        return self.output


def shorten_ids(items: Sequence[Item]) -> list[Item]:
    """Cut all ids alike to 64 characters, so that answers still match what they answer (CONTRACT: Ids).

    Ids that would become equal get a hash at their end instead. One that is 64 characters long already is the
    cut form of a longer one: the official client cuts some fields and not others.

    Example:
        >>> item = {"type": "function_call_output", "call_id": "c" * 70, "output": ""}
        >>> len(shorten_ids([item])[0]["call_id"])
        64
    """
    alike: defaultdict[str, set[str]] = defaultdict(set)
    for item in items:
        for key in _ID_KEYS:
            if len(item.get(key, "")) > MAX_ID:
                alike[item[key][:MAX_ID]].add(item[key])

    def short(value: str) -> str:
        if len(value) <= MAX_ID:
            return value
        if len(alike[value[:MAX_ID]]) == 1:
            return value[:MAX_ID]
        return f"{value[: MAX_ID - 17]}-{hashlib.sha256(value.encode()).hexdigest()[:16]}"

    return [
        {key: short(value) if key in _ID_KEYS else value for key, value in item.items()} for item in items
    ]


def pair_calls(items: Sequence[Item]) -> list[Item]:
    """Order what is said about each call id so that a strict service takes it.

    * With an output: the call, then the output; request and answer of its approval are left out, and serve to
      make the call where it is missing.
    * Answered, no output yet: the approval request, then the answer.
    * Approved in an earlier turn, whose result never arrived: the call and an output that says so. Sent again
      as it was, the approval could run the tool a second time.
    * A request that nobody answered: left out.
    * A call without an output: gets one that says so, as the service refuses dangling calls.
    * An output without a call: becomes a message of the assistant.
    * Twice the same: one call (the first) and one output (the last).
    * An id that is used again, after its output or its answer: the earlier story is told to its end, under
      another id. A decision is about the request before it, and about no other.

    Args:
        items: Items of the conversation with known keys, in order.

    Returns:
        The items to send. Between a call and its output there are other calls and outputs at most.

    Example:
        >>> call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
        >>> pair_calls([call])[1]["output"]
        'No output: the call was not run.'
    """
    items = _told_apart(items)
    stories: defaultdict[str, CallRecord] = defaultdict(CallRecord)
    for item in items:
        if key := _CALL_KEYS.get(item["type"]):
            stories[item[key]].add(item)
    for story in _left_behind(items, stories.values()):
        story.output = {"type": "function_call_output", "call_id": story.name, "output": LOST}

    told: list[Item] = []
    open_stories: list[CallRecord] = []

    def close(*which: CallRecord) -> None:
        for story in which:
            if story in open_stories and (end := story.end()) is not None:
                told.append(end)
                story.ended = True
                open_stories.remove(story)

    for item in items:
        key = _CALL_KEYS.get(item["type"])
        if key is None:
            # Endpoints want results right after their calls: nobody speaks in between.
            close(*open_stories)
            told.append(item)
            continue
        story = stories[item[key]]
        if (start := story.start()) is None:
            if story.output is not None and not story.ended:
                story.ended = True
                close(*open_stories)
                told.append(_as_message(story.output))
        elif item["type"] in ("function_call", "mcp_approval_request") and not story.begun:
            story.begun = True
            told.append(start)
            open_stories.append(story)
        elif item["type"] in ("function_call_output", "mcp_approval_response"):
            close(story)
    close(*open_stories)
    return told


def _told_apart(items: Sequence[Item]) -> list[Item]:
    """Another id for every use of an id but the last one: services may number their calls anew."""
    uses: defaultdict[str, list[CallRecord]] = defaultdict(list)
    use_of: list[tuple[str, int] | None] = []
    for item in items:
        key = _CALL_KEYS.get(item["type"])
        if key is None:
            use_of.append(None)
            continue
        of_this_id = uses[item[key]]
        if not of_this_id or of_this_id[-1].is_over_before(item):
            of_this_id.append(CallRecord())
        of_this_id[-1].add(item)
        use_of.append((item[key], len(of_this_id) - 1))
    told: list[Item] = []
    for item, use in zip(items, use_of, strict=True):
        if use is None or use[1] == len(uses[use[0]]) - 1:
            told.append(item)
            continue
        name = _another_name(use[0], use[1], uses)
        told.append({k: name if k in _ID_KEYS and v == use[0] else v for k, v in item.items()})
        story = uses[use[0]][use[1]]
        if item is story.response and story.is_decided:
            text = LOST if item.get("approve") else REFUSED
            told.append({"type": "function_call_output", "call_id": name, "output": text})
    return told


def _another_name(name: str, number: int, taken: Mapping[str, object]) -> str:
    while (other := f"{name[: MAX_ID - 8]}-{number + 1}") in taken:
        number += 1_000
    return other


def _left_behind(items: Sequence[Item], stories: Iterable[CallRecord]) -> list[CallRecord]:
    """What was approved, and then a person said something else."""
    said = [index for index, item in enumerate(items) if item.get("role") == "user"]
    moved_on = {id(item) for item in items[: said[-1]]} if said else set()
    return [
        story
        for story in stories
        if story.is_decided and id(story.response) in moved_on and (story.response or {}).get("approve")
    ]


def _as_message(output: Item) -> Item:
    text = f"Output of call {output['call_id']}: {output['output']}"
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
