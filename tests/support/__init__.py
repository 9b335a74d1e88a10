"""Helpers that the tests of several folders share.

Services that answer from a script, in the test's process:

- ``scripted_agent``: background responses that behave as a script of jobs says.
- ``scripted_service``: the same API, byte for byte: what each request is answered.
- ``recorder``: a plain HTTP server with a table of answers.

Graphs in front of them:

- ``graph_harness``: one thread of a supervisor, with a scripted service and a clock.
- ``compiled_graphs``: supervisors, parents and fan-outs on a scripted agent; runs that are cut off.
- ``simulation``: several processes on one thread, killed between any two of their effects, on virtual time.

Data:

- ``items_strategies``: items of every type, for Hypothesis.
- ``conversations``: a thread as the server holds it, and what clients send of it.
- ``agent_chat_ui``: what that user interface needs of an interrupt, and what its buttons send.

Ledgers and time:

- ``ledgers``: a turn to open, the key of its submission, a clock that stands still.
- ``ledger_process``: a process that does one thing to a ledger.
- ``light_ledger_import``: the ledger without LangGraph, for processes that start often.
- ``fake_time``: a clock that a sleep puts forward.
- ``postgres``: a Postgres of the tests' own.

Processes:

- ``local_supervisor_process``: the stand-in of the service.
- ``server_process``: the agent server.
- ``served``: the agent server's app in a thread.
- ``studio_process``: ``langgraph dev``.
- ``processes``: the ``ask`` command.
- ``warm_ask``, ``warm_guides``: processes that have imported everything and fork one child a run.
"""
