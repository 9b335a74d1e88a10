"""A response's own items, without the history that a server repeats before them, and what the response waits for.

The output of a background response may begin with the assistant messages, calls and outputs of its input
(docs/wire.md: Retrieve). They are recognised by their content, not by their number, so the result is the same for
servers that repeat them and servers that do not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from .call_pairs import MAX_ID
from .echo import find_echo, is_unfinished
from .json_values import Item
from .messages import as_item, is_of_response, items_from_message


def new_items(output: Any, sent: Sequence[Item], *, final: bool) -> list[Item]:
    """All own items of a response, in order.

    The result of an earlier poll is a prefix of a later one's: skip the number of items that were delivered.

    History are: calls, outputs, approvals and messages with the id and content of a sent one, repeated user messages,
    and items before one of these that equal a sent item. An assistant message that only equals a sent one is history
    if the whole history is there, in order, and a new item follows; otherwise it is an answer with the same text.

    Args:
        output: ``output`` of the retrieved response, not validated.
        sent: ``input`` of the request that created the response.
        final: Whether the response has ended. If not, the result ends before the first item that is unfinished or
            may be history.

    Returns:
        The items, unchanged; an entry that is not an object is wrapped (:func:`.messages.as_item`).

    Example:
        >>> old = {"type": "message", "id": "m1", "role": "assistant", "content": "Hello!"}
        >>> new = {"type": "message", "id": "m2", "role": "assistant", "content": "42"}
        >>> new_items([old, new], [old], final=True) == new_items([new], [old], final=True) == [new]
        True
    """
    items = [as_item(value) for value in output] if isinstance(output, list) else []
    echo = find_echo(items, sent)
    own = [index for index in range(len(items)) if index not in echo.certain]
    fresh = [index for index in own if index not in echo.likely]
    if echo.is_whole and (fresh or not final):
        own = fresh
    elif echo.likely and echo.may_continue and not final:
        own = [index for index in own if index < min(echo.likely)]
    if final:
        own = sorted({*own, *_trailing_calls(items)})
    else:
        stop = next((n for n, index in enumerate(own) if is_unfinished(items[index])), len(own))
        own = own[:stop]
    return [items[index] for index in own]


def _trailing_calls(items: Sequence[Item]) -> range:
    """Calls and requests at the end. They are new: in the history, an output or response follows each.

    They can look like history if a service numbers its calls anew and repeats a call.
    """
    start = len(items)
    while start and items[start - 1].get("type") in ("function_call", "mcp_approval_request"):
        start -= 1
    return range(start, len(items))


def pending_approvals(items: Sequence[Item]) -> list[Item]:
    """The approval requests of a response without a decision or output (docs/wire.md: Approvals).

    Args:
        items: The response's own items.

    Returns:
        ``mcp_approval_request`` items, one per id. Those without an id are left out: they cannot be answered.

    Example:
        >>> request = {"type": "mcp_approval_request", "id": "call_x", "name": "web-search"}
        >>> pending_approvals([request]) == [request]
        True
    """
    answered = _values(items, "mcp_approval_response", "approval_request_id")
    answered |= _values(items, "function_call_output", "call_id")
    return _unanswered(items, "mcp_approval_request", "id", answered)


def pending_calls(items: Sequence[Item], declared: Collection[str]) -> list[Item]:
    """The calls of client-side functions that must be run (docs/wire.md: Client-side functions).

    Args:
        items: The response's own items.
        declared: Names of the functions that the request declared. The service has run other calls itself.

    Returns:
        ``function_call`` items without an output in ``items``, one per call id. Calls with status ``incomplete``
        (truncated by a limit) are left out.

    Example:
        >>> call = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"}
        >>> pending_calls([call], {"add"}) == [call], pending_calls([call], {"other"})
        (True, [])
    """
    outputs = _values(items, "function_call_output", "call_id")
    calls = _unanswered(items, "function_call", "call_id", outputs)
    return [
        call
        for call in calls
        if isinstance(name := call.get("name"), str)
        and name in declared
        and call.get("status") != "incomplete"
    ]


def _values(items: Sequence[Item], kind: str, key: str) -> set[str]:
    found = (item.get(key) for item in items if isinstance(item, dict) and item.get("type") == kind)
    return {value for value in found if isinstance(value, str) and value}


def _unanswered(items: Sequence[Item], kind: str, key: str, answered: set[str]) -> list[Item]:
    pending: dict[str, Item] = {}
    for item in items:
        if isinstance(item, dict) and item.get("type") == kind:
            value = item.get(key)
            # The answer may have the truncated id (docs/wire.md: Ids).
            if isinstance(value, str) and value and not {value, value[:MAX_ID]} & answered:
                pending.setdefault(value, item)
    return list(pending.values())


@dataclass(frozen=True, slots=True)
class Pending:
    """The items that a response waits for.

    Attributes:
        approvals: ``mcp_approval_request`` items without a decision in the conversation.
        calls: ``function_call`` items of client-side functions without an output.
    """

    approvals: list[Item]
    calls: list[Item]

    def __bool__(self) -> bool:
        return bool(self.approvals or self.calls)


def items_of(messages: Iterable[BaseMessage], response_id: str | None) -> list[Item]:
    """The items of one response, including the decisions and outputs that were added to it.

    Args:
        messages: The conversation.
        response_id: Id of the response; ``None`` gives no items.

    Example:
        >>> from langchain_core.messages import AIMessage
        >>> [item["type"] for item in items_of([AIMessage("42", id="resp_1:0"), AIMessage("", id="x")], "resp_1")]
        ['message']
    """
    return [
        item
        for message in messages
        if is_of_response(message, response_id)
        for item in items_from_message(message)
    ]


def says_something(item: Item) -> bool:
    """Whether an item is part of an answer: a list of tools, or reasoning without anything else, is none."""
    return item.get("type") not in ("mcp_list_tools", "reasoning")


def pending_of(
    messages: Iterable[BaseMessage], response_id: str | None, function_names: Collection[str]
) -> Pending:
    """The items that a response waits for, given the decisions and outputs in the conversation.

    Args:
        messages: The conversation.
        response_id: Id of the response.
        function_names: Names of the client-side functions.
    """
    items = items_of(messages, response_id)
    return Pending(approvals=pending_approvals(items), calls=pending_calls(items, function_names))
