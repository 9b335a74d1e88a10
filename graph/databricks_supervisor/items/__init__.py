"""Responses items and the conversation: pure functions.

Lives here: :mod:`.messages` (items to LangChain messages and back, without loss; with :mod:`.from_langchain` for
messages of other nodes, :mod:`.original_item`, :mod:`.content` and :mod:`.json_values`), :mod:`.history` (the
conversation as the input of a request; with :mod:`.call_pairs`), :mod:`.output` (a response's new items and pending
approvals and calls; with :mod:`.echo`).

May import: nothing of this package.
"""

from .json_values import Item
from .messages import (
    as_item,
    is_of_response,
    item_type,
    items_from_message,
    message_from_item,
    message_id,
)
from .original_item import ITEM_KEY

__all__ = [
    "ITEM_KEY",
    "Item",
    "as_item",
    "is_of_response",
    "item_type",
    "items_from_message",
    "message_from_item",
    "message_id",
]
