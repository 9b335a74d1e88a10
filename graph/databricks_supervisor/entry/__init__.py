"""Which turn a run belongs to, decided before LangGraph applies its input.

Lives here: :mod:`.prepare` (the way in), :mod:`.inputs` (what the caller gave), :mod:`.turns` (a new turn, the same
one again, or one that is in the way), :mod:`.busy` (what happens to the one in the way), :mod:`.position` (where in a
larger graph the run is), :mod:`.resume` (which interrupt an answer is for), :mod:`.sync` (callers without an event
loop), :mod:`.langgraph_internals` (all that is private in LangGraph).

May import: everything below it; never ``nodes``, which run after it.
"""
