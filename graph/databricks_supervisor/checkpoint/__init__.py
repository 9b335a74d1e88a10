"""What LangGraph's checkpointers store for the supervisor, and which ledger goes with them.

Lives here: :mod:`.snapshot` (a thread's latest checkpoint, read), :mod:`.ledger_resolver` (the ledger of a
checkpointer), :mod:`.saver` (a checkpointer that stores each message once) with :mod:`.references` and
:mod:`.contents`.

May import: ``ledger``, ``items``, ``state``.
"""
