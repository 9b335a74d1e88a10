"""The command line: ask the agent a question, or start its server.

Lives here: :mod:`.ask` (the command `ask`) with :mod:`.run` (one run of it, from checks to exit code), :mod:`.loop`
(a thread to its end, or until a person is needed), :mod:`.conversation` (the thread), :mod:`.prompts` (who answers
approvals), :mod:`.view` (what is shown) as :mod:`.view_terminal`, :mod:`.view_plain` and :mod:`.view_json`, and
:mod:`.text` (items in words); :mod:`.serve` (the commands `start-server` and `start-app`) with :mod:`.chat_ui`;
:mod:`.options` (what the commands share).

May import: everything of the app but ``http``, which uvicorn loads by name. ``ask`` prints its first line before
anything heavy is imported, and ``serve`` checks everything before that.
"""
