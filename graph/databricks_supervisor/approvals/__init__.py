"""What a person is asked, how an answer is read, and that a decision is made once.

Lives here: :mod:`.interrupts` (the interrupt's value and its answer: pure functions), :mod:`.decisions` (recorded in
the ledger; the first one stands).

May import: ``ledger``, ``items``, ``state``.
"""
