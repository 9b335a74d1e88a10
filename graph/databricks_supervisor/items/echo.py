"""Which items of an output repeat the input (docs/wire.md: Retrieve)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from .call_pairs import MAX_ID
from .content import blocks_of, output_text_of, text_of
from .json_values import canonical, parse_object
from .messages import Item, item_type

UNFINISHED = ("queued", "incomplete", "in_progress")


@dataclass(frozen=True, slots=True)
class Echo:
    """What is known about the history at the beginning of an output.

    Attributes:
        certain: Positions in the output that repeat the input.
        likely: Positions that equal the next item of the history and have nothing else to prove it.
        is_whole: Together they are all of the history that servers are known to repeat.
        may_continue: The next poll may add to ``likely``: nothing after it contradicts it yet.
    """

    certain: frozenset[int]
    likely: frozenset[int]
    is_whole: bool
    may_continue: bool


def is_unfinished(item: Any) -> bool:
    """Whether an item may still change (docs/wire.md: Retrieve).

    Unfinished are status queued, incomplete or in_progress, and an item without an id, unless it is a
    ``function_call_output``, which rightly has none.

    Example:
        >>> is_unfinished({"type": "message", "id": None})
        True
    """
    if not isinstance(item, dict) or item.get("status") in UNFINISHED:
        return True
    return item.get("type") != "function_call_output" and not item.get("id")


def _cut(value: object) -> str | None:
    """An id as the service may have cut it (docs/wire.md: Ids); ``None`` for what is no id."""
    return value[:MAX_ID] if isinstance(value, str) and value else None


def find_echo(items: Sequence[Item], sent: Sequence[Item]) -> Echo:
    """Compare an output with the input of its request.

    Args:
        items: Items of the output.
        sent: Items of the input.

    Example:
        >>> hello = {"type": "message", "id": "m1", "role": "assistant", "content": "Hello!"}
        >>> sorted(find_echo([hello, {**hello, "id": "m2"}], [hello]).certain)
        [0]
    """
    anchors = _anchors(items, sent)
    required = [place for place, item in enumerate(sent) if _is_repeated(item)]
    before = _before(anchors, items, sent, required)
    used = {*anchors.values(), *before.values()}

    likely: set[int] = set()
    waiting = deque(place for place in required if place not in used)
    index = max(anchors, default=-1) + 1
    while index < len(items) and waiting and _equals(items[index], sent[waiting[0]]):
        likely.add(index)
        waiting.popleft()
        index += 1
    may_continue = index == len(items) or is_unfinished(items[index])
    return Echo(frozenset(anchors | before), frozenset(likely), not waiting, may_continue)


def _before(
    anchors: dict[int, int], items: Sequence[Item], sent: Sequence[Item], required: Sequence[int]
) -> dict[int, int]:
    """Output items before an anchor that equal sent ones, in order: nothing but history stands there."""
    last = max(anchors, default=0)
    limits = [len(sent)] * (last + 1)  # For each output position, the next anchor's place in the input.
    for index in range(last - 1, -1, -1):
        limits[index] = anchors.get(index + 1, limits[index + 1])
    found: dict[int, int] = {}
    start = 0
    for index in range(last):
        if (place := anchors.get(index)) is None:
            free = (place for place in required if start <= place < limits[index])
            place = next((place for place in free if _equals(items[index], sent[place], by_id=True)), None)
            if place is None:
                continue
            found[index] = place
        start = max(start, place + 1)
    return found


def _anchors(items: Sequence[Item], sent: Sequence[Item]) -> dict[int, int]:
    """Output items that name themselves as sent ones, each with the sent one's position."""
    places: defaultdict[Hashable, deque[int]] = defaultdict(deque)
    for place, item in enumerate(sent):
        if (identity := _identity(item)) is not None:
            places[identity].append(place)
    anchors: dict[int, int] = {}
    own_calls: set[str | None] = set()
    for index, item in enumerate(items):
        kind = item.get("type")
        if kind == "function_call_output" and _cut(item.get("call_id")) in own_calls:
            continue  # Services that number their calls anew in each response use an old id for a new call.
        if (identity := _identity(item)) is not None and places[identity]:
            anchors[index] = places[identity].popleft()
        elif kind == "function_call":
            own_calls.add(_cut(item.get("call_id")))
    return anchors


def _identity(item: Item) -> Hashable | None:
    """What makes an item of an output certainly the same as a sent one."""
    match item_type(item):
        case "message":
            role, item_id = _role(item), _cut(item.get("id"))
            if role != "assistant":
                return "message", role, _said(item)  # A response never speaks in the name of a user.
            return ("message", item_id, _said(item)) if item_id else None
        case "function_call":
            call_id = _cut(item.get("call_id"))
            return ("function_call", call_id, *_request(item)) if call_id else None
        case "function_call_output":
            call_id = _cut(item.get("call_id"))
            return ("function_call_output", call_id) if call_id else None
        case "mcp_approval_request":
            request_id = _cut(item.get("id"))
            return ("mcp_approval_request", request_id, *_request(item)) if request_id else None
        case "mcp_approval_response":
            request_id = _cut(item.get("approval_request_id"))
            return ("mcp_approval_response", request_id) if request_id else None
    return None


def _equals(item: Item, sent: Item, *, by_id: bool = False) -> bool:
    """Whether an output item without a telling id says what a sent one says."""
    kind = item_type(item)
    if kind != item_type(sent) or item.get("status") in UNFINISHED:
        return False
    if kind == "message":
        if by_id and (item_id := _cut(item.get("id"))) and item_id == _cut(sent.get("id")):
            return True
        return _role(item) == _role(sent) and _said(item) == _said(sent)
    if item.get("call_id"):
        return False
    if kind == "function_call":
        return _request(item) == _request(sent)
    return output_text_of(item.get("output")) == output_text_of(sent.get("output"))


def _is_repeated(item: Item) -> bool:
    """Whether servers are documented to repeat such an item."""
    kind = item_type(item)
    return kind in ("function_call", "function_call_output") or (
        kind == "message" and _role(item) == "assistant"
    )


def _role(item: Item) -> str:
    role = item.get("role")
    return str(role) if role in ("user", "system", "developer") else "assistant"


def _said(item: Item) -> str:
    return "".join(text_of(block) for block in blocks_of(item.get("content"))).strip()


def _request(item: Item) -> tuple[str, str]:
    arguments = item.get("arguments")
    parsed = parse_object(arguments)
    return str(item.get("name")), canonical(arguments if parsed is None else parsed)
