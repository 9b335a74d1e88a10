"""Which service answers, and clients of it.

Lives here: :mod:`.backend` (a supervisor, an app, another service or the local supervisor), :mod:`.hosts` (configured
addresses, and whether they can be reached), :mod:`.local_process` (the local supervisor as a process of its own),
:mod:`.user_tokens` (users' own credentials).

May import: ``settings`` and ``errors`` of the app.
"""
