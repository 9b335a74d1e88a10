"""At most one call and one output per call id, or one approval request and its response.

A conversation can contain the same call as an approval request, its response, a function call and an output, all with
one id (docs/wire.md: What clients need), but the service accepts one result per call: "each tool_use must have a
single result" (docs/wire.md: Approvals).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .json_values import Item

MAX_ID: Final = 64
NOT_RUN: Final = "No output: the call was not run."
REFUSED: Final = "No output: the call was refused."
LOST: Final = "No output: the call was approved, and the turn ended before its result arrived."

_ID_KEYS: Final = ("id", "call_id", "approval_request_id")
CALL_KEYS: Final = {
    "function_call": "call_id",
    "function_call_output": "call_id",
    "mcp_approval_request": "id",
    "mcp_approval_response": "approval_request_id",
}


@dataclass(slots=True, eq=False)
class CallRecord:
    """The items of one call id: the first call, request and response, and the last output."""

    call: Item | None = None
    request: Item | None = None
    response: Item | None = None
    output: Item | None = None
    started: bool = False
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

    def is_complete_before(self, item: Item) -> bool:
        """Whether an item with this call's id belongs to another use of the id."""
        has_result = self.output is not None and (self.call is not None or self.request is not None)
        match item["type"]:
            case "function_call":
                return has_result
            case "mcp_approval_request":
                return has_result or (self.request is not None and self.response is not None)
        return False

    @property
    def awaits_result(self) -> bool:
        """Whether its approval is decided and has no output: the service needs the request and the response."""
        return self.request is not None and self.response is not None and self.output is None

    def start(self) -> Item | None:
        """The item to send first."""
        if self.awaits_result:
            return self.request
        if self.call is None and self.request is not None and self.output is not None:
            fields = {key: self.request[key] for key in ("name", "arguments")}
            return {"type": "function_call", "call_id": self.request["id"], **fields}
        return self.call

    def end(self) -> Item | None:
        """The item to send after :meth:`start`."""
        if self.awaits_result:
            return self.response
        if self.call is not None and self.output is None:
            return {"type": "function_call_output", "call_id": self.call["call_id"], "output": NOT_RUN}
        return self.output


def shorten_ids(items: Sequence[Item]) -> list[Item]:
    """Truncate ids to 64 characters, the same everywhere, so that outputs still match calls (docs/wire.md: Ids).

    Ids that would become equal end with a hash instead. An id of exactly 64 characters counts as the truncated form
    of a longer one: the official client truncates some fields and not others.

    Example:
        >>> item = {"type": "function_call_output", "call_id": "c" * 70, "output": ""}
        >>> len(shorten_ids([item])[0]["call_id"])
        64
    """
    full_ids: defaultdict[str, set[str]] = defaultdict(set)  # by truncated id
    for item in items:
        for key in _ID_KEYS:
            if len(item.get(key, "")) > MAX_ID:
                full_ids[item[key][:MAX_ID]].add(item[key])

    def short(value: str) -> str:
        if len(value) <= MAX_ID:
            return value
        if len(full_ids[value[:MAX_ID]]) == 1:
            return value[:MAX_ID]
        return f"{value[: MAX_ID - 17]}-{hashlib.sha256(value.encode()).hexdigest()[:16]}"

    return [
        {key: short(value) if key in _ID_KEYS else value for key, value in item.items()} for item in items
    ]


def pair_calls(items: Sequence[Item]) -> list[Item]:
    """Reduce the items of each call id to a pair that the service accepts.

    * Call with output: the call, then the output. The approval's request and response are left out; they supply
      the call if it is missing.
    * Approval with a response and no output: the request, then the response.
    * Approval request without a response: left out.
    * Call without an output: gets an output that says so, because the service rejects such calls.
    * Output without a call: becomes a message of the assistant.
    * Duplicates: the first call and the last output.
    * Id used again after its output or response: the earlier use is completed under another id. A response belongs
      to the request before it.

    Args:
        items: Items of the conversation with known keys, in order.

    Returns:
        The items to send. No message stands between a call and its output.

    Example:
        >>> call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
        >>> pair_calls([call])[1]["output"]
        'No output: the call was not run.'
    """
    items = _with_distinct_ids(items)
    records: defaultdict[str, CallRecord] = defaultdict(CallRecord)
    for item in items:
        if key := CALL_KEYS.get(item["type"]):
            records[item[key]].add(item)
    paired = _PairedItems()
    for item in items:
        key = CALL_KEYS.get(item["type"])
        if key is None:
            # No message may stand between a call and its output.
            paired.close_all()
            paired.items.append(item)
            continue
        record = records[item[key]]
        if (start := record.start()) is None:
            if record.output is not None and not record.ended:
                record.ended = True
                paired.close_all()
                paired.items.append(_as_message(record.output))
        elif item["type"] in ("function_call", "mcp_approval_request") and not record.started:
            paired.start(record, start)
        elif item["type"] in ("function_call_output", "mcp_approval_response"):
            paired.close(record)
    paired.close_all()
    return paired.items


class _PairedItems:
    """The items so far, and their calls without an output yet."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._open: list[CallRecord] = []

    def start(self, record: CallRecord, item: Item) -> None:
        record.started = True
        self.items.append(item)
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
    """Rename every use of an id except the last: services may number their calls anew in each response."""
    uses: defaultdict[str, list[CallRecord]] = defaultdict(list)
    use_numbers: list[int] = []
    for item in items:
        key = CALL_KEYS.get(item["type"])
        if key is None:
            use_numbers.append(-1)
            continue
        records = uses[item[key]]
        if not records or records[-1].is_complete_before(item):
            records.append(CallRecord())
        records[-1].add(item)
        use_numbers.append(len(records) - 1)
    renamed: list[Item] = []
    for item, number in zip(items, use_numbers, strict=True):
        key = CALL_KEYS.get(item["type"])
        if key is None or number == len(uses[item[key]]) - 1:
            renamed.append(item)
            continue
        old, record = item[key], uses[item[key]][number]
        new = _unused_id(old, number, uses)
        renamed.append({k: new if k in _ID_KEYS and v == old else v for k, v in item.items()})
        if item is record.response and record.awaits_result:
            text = LOST if item.get("approve") else REFUSED
            renamed.append({"type": "function_call_output", "call_id": new, "output": text})
    return renamed


def _unused_id(old: str, number: int, used: Mapping[str, object]) -> str:
    while (new := f"{old[: MAX_ID - 8]}-{number + 1}") in used:
        number += 1_000
    return new


def _as_message(output: Item) -> Item:
    text = f"Output of call {output['call_id']}: {output['output']}"
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
