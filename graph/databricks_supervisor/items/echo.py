"""Finds the items of an output that repeat the input (docs/wire.md: Retrieve)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from .call_pairs import CALL_KEYS, MAX_ID
from .content import blocks_of, output_text_of, text_of
from .json_values import Item, canonical, parse_object
from .messages import item_type

UNFINISHED = ("queued", "incomplete", "in_progress")


@dataclass(frozen=True, slots=True)
class Echo:
    """The repeated history at the beginning of an output.

    Attributes:
        certain: Positions in the output that certainly repeat the input.
        likely: Positions after those whose content equals the next items of the history, without other evidence.
        is_whole: Whether ``certain`` and ``likely`` cover all of the history that servers are known to repeat.
        may_continue: Whether the next poll may extend ``likely``: no finished, different item follows it yet.
    """

    certain: frozenset[int]
    likely: frozenset[int]
    is_whole: bool
    may_continue: bool


def is_unfinished(item: Any) -> bool:
    """Whether an item may still change (docs/wire.md: Retrieve).

    Unfinished are items with status queued, incomplete or in_progress, and items without an id, except
    ``function_call_output``, which has none.

    Example:
        >>> is_unfinished({"type": "message", "id": None})
        True
    """
    if not isinstance(item, dict) or item.get("status") in UNFINISHED:
        return True
    return item.get("type") != "function_call_output" and not item.get("id")


def _truncated(value: object) -> str | None:
    """An id as the service may have truncated it (docs/wire.md: Ids); ``None`` if it is not an id."""
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
    before = _equal_before_anchors(anchors, items, sent, required)
    used = {*anchors.values(), *before.values()}

    likely: set[int] = set()
    remaining = deque(place for place in required if place not in used)
    index = max(anchors, default=-1) + 1
    while index < len(items) and remaining and _equals(items[index], sent[remaining[0]]):
        likely.add(index)
        remaining.popleft()
        index += 1
    may_continue = index == len(items) or is_unfinished(items[index])
    return Echo(frozenset(anchors | before), frozenset(likely), not remaining, may_continue)


def _equal_before_anchors(
    anchors: dict[int, int], items: Sequence[Item], sent: Sequence[Item], required: Sequence[int]
) -> dict[int, int]:
    """Output items before an anchor that equal sent ones, in order: everything before an anchor is history."""
    last = max(anchors, default=0)
    limits = [len(sent)] * (last + 1)  # For each output position, the next anchor's position in the input.
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
    """Output items that certainly repeat a sent one, each with the sent one's position."""
    places: defaultdict[Hashable, deque[int]] = defaultdict(deque)
    for place, item in enumerate(sent):
        if (identity := _identity(item)) is not None:
            places[identity].append(place)
    anchors: dict[int, int] = {}
    own_calls: set[str | None] = set()
    for index, item in enumerate(items):
        kind = item.get("type")
        if kind == "function_call_output" and _truncated(item.get("call_id")) in own_calls:
            continue  # A service that numbers its calls anew in each response uses an old id for a new call.
        if (identity := _identity(item)) is not None and places[identity]:
            anchors[index] = places[identity].popleft()
        elif kind == "function_call":
            own_calls.add(_truncated(item.get("call_id")))
    return anchors


def _identity(item: Item) -> Hashable | None:
    """A key that is equal only if an output item repeats a sent one; ``None`` if nothing can prove that."""
    kind = item_type(item)
    if kind == "message":
        role, item_id = _role(item), _truncated(item.get("id"))
        if role != "assistant":
            return kind, role, _plain_text(item)  # A response has no new messages of users.
        return (kind, item_id, _plain_text(item)) if item_id else None
    if not isinstance(kind, str) or kind not in CALL_KEYS:
        return None
    call_id = _truncated(item.get(CALL_KEYS[kind]))
    content = _name_and_arguments(item) if kind in ("function_call", "mcp_approval_request") else ()
    return (kind, call_id, *content) if call_id else None


def _equals(item: Item, sent: Item, *, by_id: bool = False) -> bool:
    """Whether an output item without an identifying id has the content of a sent one."""
    kind = item_type(item)
    if kind != item_type(sent) or item.get("status") in UNFINISHED:
        return False
    if kind == "message":
        if by_id and (item_id := _truncated(item.get("id"))) and item_id == _truncated(sent.get("id")):
            return True
        return _role(item) == _role(sent) and _plain_text(item) == _plain_text(sent)
    if item.get("call_id"):
        return False
    if kind == "function_call":
        return _name_and_arguments(item) == _name_and_arguments(sent)
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


def _plain_text(item: Item) -> str:
    return "".join(text_of(block) for block in blocks_of(item.get("content"))).strip()


def _name_and_arguments(item: Item) -> tuple[str, str]:
    arguments = item.get("arguments")
    parsed = parse_object(arguments)
    return str(item.get("name")), canonical(arguments if parsed is None else parsed)
