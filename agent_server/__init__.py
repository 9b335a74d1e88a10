"""The app: an agent server and a command line for the supervisor graph.

Lives here: :mod:`.http` (the server), :mod:`.cli` (the commands `ask`, `start-server` and `start-app`),
:mod:`.studio` (the graph for LangGraph Studio); :mod:`.graph` (the graph with the app's settings), :mod:`.backend`
(which service answers), :mod:`.storage` (checkpoints and ledger), :mod:`.settings`, :mod:`.tracing` (traces in
MLflow), :mod:`.threads` (what a thread holds), :mod:`.tools` (the agent's tools: edit it), :mod:`.errors`.

May import: the library, `databricks_supervisor`; of each other, in the order of the contracts in pyproject.toml. The
local supervisor is started as a process, never imported.
"""
