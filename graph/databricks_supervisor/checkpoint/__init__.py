"""Checkpoints: how they are read and stored, and which ledger belongs to a checkpointer.

Lives here: :mod:`.snapshot` (reads a thread's latest checkpoint), :mod:`.ledger_resolver` (the ledger of a
checkpointer), :mod:`.saver` (a checkpointer that stores each message once) with :mod:`.references` and
:mod:`.contents`.

May import: ``ledger``, ``items``, ``state``.
"""
