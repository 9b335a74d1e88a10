"""Responses items and the conversation: pure functions.

Lives here: :mod:`.messages` (items as LangChain messages and back, without loss; with :mod:`.from_langchain` for
messages that others wrote, :mod:`.original_item`, :mod:`.content` and :mod:`.json_values`), :mod:`.history` (a
conversation as the input of a request; with :mod:`.call_pairs`), :mod:`.output` (what is new in a response, and what
it waits for; with :mod:`.echo`).

May import: nothing of this package.
"""

from .messages import (
    Item,
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
