"""Traces of turns, in MLflow.

Lives here: :mod:`.mlflow_tracing` (sets MLflow up, keeps the traces of paused turns open, hides credentials),
:mod:`.turn_trace` (the trace of one turn, from the graph's callbacks), :mod:`.spans` (its spans), :mod:`.span_data`
(what they say).

May import: the library alone.
"""
