"""One consistent record per call: at most one call, one output after it, or a request and its answer.

The same call can be in a conversation as an approval request, as the decision on it, as a function call and
as an output, all with one id (docs/wire.md: What clients need), while the service wants one result for
each: "each tool_use must have a single result" (docs/wire.md: Approvals).
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
        """Whether an item with this call's id begins another record."""
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
    def request_id(self) -> str:
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
    """Cut all ids alike to 64 characters, so that answers still match what they answer (docs/wire.md: Ids).

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
    * An id that is used again, after its output or its answer: the earlier record is told to its end, under
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
    items = _with_distinct_ids(items)
    records: defaultdict[str, CallRecord] = defaultdict(CallRecord)
    for item in items:
        if key := _CALL_KEYS.get(item["type"]):
            records[item[key]].add(item)
    for record in _left_behind(items, records.values()):
        record.output = {"type": "function_call_output", "call_id": record.request_id, "output": LOST}
    paired = _Paired()
    for item in items:
        key = _CALL_KEYS.get(item["type"])
        if key is None:
            # Endpoints want results right after their calls: no message may stand between the two.
            paired.close_all()
            paired.items.append(item)
            continue
        record = records[item[key]]
        if (start := record.start()) is None:
            if record.output is not None and not record.ended:
                record.ended = True
                paired.close_all()
                paired.items.append(_as_message(record.output))
        elif item["type"] in ("function_call", "mcp_approval_request") and not record.begun:
            paired.begin(record, start)
        elif item["type"] in ("function_call_output", "mcp_approval_response"):
            paired.close(record)
    paired.close_all()
    return paired.items


class _Paired:
    """The items so far, and the calls among them whose output is still to come."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._open: list[CallRecord] = []

    def begin(self, record: CallRecord, start: Item) -> None:
        record.begun = True
        self.items.append(start)
        self._open.append(record)

    def close(self, record: CallRecord) -> None:
        if record in self._open and (end := record.end()) is not None:
            self.items.append(end)
            record.ended = True
            self._open.remove(record)

    def close_all(self) -> None:
        for record in list(self._open):
            self.close(record)


def _with_distinct_ids(items: Sequence[Item]) -> list[Item]:
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
    renamed: list[Item] = []
    for item, use in zip(items, use_of, strict=True):
        if use is None or use[1] == len(uses[use[0]]) - 1:
            renamed.append(item)
            continue
        name = _another_name(use[0], use[1], uses)
        renamed.append({k: name if k in _ID_KEYS and v == use[0] else v for k, v in item.items()})
        record = uses[use[0]][use[1]]
        if item is record.response and record.is_decided:
            text = LOST if item.get("approve") else REFUSED
            renamed.append({"type": "function_call_output", "call_id": name, "output": text})
    return renamed


def _another_name(name: str, number: int, taken: Mapping[str, object]) -> str:
    while (other := f"{name[: MAX_ID - 8]}-{number + 1}") in taken:
        number += 1_000
    return other


def _left_behind(items: Sequence[Item], records: Iterable[CallRecord]) -> list[CallRecord]:
    """What was approved, and then a person said something else."""
    said = [index for index, item in enumerate(items) if item.get("role") == "user"]
    moved_on = {id(item) for item in items[: said[-1]]} if said else set()
    return [
        record
        for record in records
        if record.is_decided and id(record.response) in moved_on and (record.response or {}).get("approve")
    ]


def _as_message(output: Item) -> Item:
    text = f"Output of call {output['call_id']}: {output['output']}"
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
