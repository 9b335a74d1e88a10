"""The graph's nodes, one a module, and how a turn moves on or ends.

Lives here: :mod:`.submit`, :mod:`.poll`, :mod:`.approve`, :mod:`.call_tools`; :mod:`.routing` (which node is next),
:mod:`.transitions` (the next round, or an end without an answer), :mod:`.progress` and :mod:`.text_stream` (what is
streamed meanwhile).

May import: everything below it; never ``entry``, which runs before it.
"""
