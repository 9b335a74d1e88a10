"""Responses items and the conversation: pure functions.

:mod:`.messages` turns items into LangChain messages and back, without loss (with :mod:`.foreign` for messages
that others wrote, :mod:`.originals`, :mod:`.parts`); :mod:`.history` makes the input of a request of a
conversation (with :mod:`.stories`); :mod:`.output` finds what is new in a response (with :mod:`.echo`).
"""

from .messages import ITEM_KEY, Item, as_item, items_from_message, message_from_item, message_id

__all__ = ["ITEM_KEY", "Item", "as_item", "items_from_message", "message_from_item", "message_id"]
