"""One consistent story per call: at most one call, one output after it, or a request and its answer.

The same call can be in a conversation as an approval request, as the decision on it, as a function call and
as an output, all with one id (CONTRACT: The turn after an approval), while the service wants one result for
each: "each tool_use must have a single result" (CONTRACT: MCP approvals).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["MAX_ID", "NOT_RUN", "one_story", "shorten_ids"]

Item = dict[str, Any]

MAX_ID: Final = 64
NOT_RUN: Final = "No output: the call was not run."
LOST: Final = "No output: the call was approved, and the turn ended before its result arrived."

_ID_KEYS: Final = ("id", "call_id", "approval_request_id")
_CALL_KEYS: Final = {
    "function_call": "call_id",
    "function_call_output": "call_id",
    "mcp_approval_request": "id",
    "mcp_approval_response": "approval_request_id",
}


@dataclass(slots=True, eq=False)
class _Story:
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


def one_story(items: Sequence[Item]) -> list[Item]:
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

    Args:
        items: Items of the conversation with known keys, in order.

    Returns:
        The items to send. Between a call and its output there are other calls and outputs at most.

    Example:
        >>> call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
        >>> one_story([call])[1]["output"]
        'No output: the call was not run.'
    """
    stories: defaultdict[str, _Story] = defaultdict(_Story)
    for item in items:
        if key := _CALL_KEYS.get(item["type"]):
            stories[item[key]].add(item)
    for story in _left_behind(items, stories.values()):
        story.output = {"type": "function_call_output", "call_id": story.name, "output": LOST}

    told: list[Item] = []
    open_stories: list[_Story] = []

    def close(*which: _Story) -> None:
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


def _left_behind(items: Sequence[Item], stories: Iterable[_Story]) -> list[_Story]:
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
