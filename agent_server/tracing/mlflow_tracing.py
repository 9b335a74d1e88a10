"""Traces of what the server does, in MLflow; on if ``MLFLOW_TRACKING_URI`` is set, and no job depends on it.

Setting MLflow up asks the tracking server, so a thread does it, and tries again until it works; what happens until
then is remembered, of ``MOST_UNWRITTEN`` turns at most. What is traced is kept in memory and written by MLflow's
own threads; when they cannot keep up, traces are dropped, and when the process ends they get a moment, and no more.

**One trace a turn.** An approval pauses a turn, and its trace stays open here for ``PAUSED_S``: answered within that
time, the turn goes on in the same trace. Later, or in another process, it goes on in a new one: MLflow can add spans
to a trace that was written only where its store takes single spans, which Databricks' experiments do not
(``MlflowV3SpanExporter._export_spans_incrementally``). All traces of a turn have its id as the tag
``supervisor.turn_id``, and all of a conversation are one session.

**mlflow.openai.autolog** is on, as in Databricks' templates. In MLflow 3.17 it wraps ``create`` and ``parse`` of
the OpenAI SDK's resources (``mlflow/openai/autolog.py``). The library posts below them, so no job is traced twice;
what it adds are the calls of models that functions in ``agent_server/tools.py`` make, below the span of the
function. It records every argument of a call, ``extra_headers`` with their tokens too: :func:`hide_secrets` takes
those out of every span, whoever made it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from databricks_supervisor.ledger import Turn
from databricks_supervisor.redaction import scrub

if TYPE_CHECKING:
    from mlflow.entities import Experiment, LiveSpan

    from .turn_trace import TurnTrace

logger = logging.getLogger(__name__)

PAUSED_S = 600.0
"""How long the trace of a turn that waits for a person stays open, in seconds."""
MOST_PAUSED = 1000
MOST_UNWRITTEN = 100
RETRY_S = (5.0, 15.0, 60.0, 300.0)
HIDDEN = "[redacted]"

# A trace is as long as its turn, whose jobs alone may take half an hour each; and there may be thousands of them.
_DEFAULTS = {
    "MLFLOW_TRACE_BUFFER_TTL_SECONDS": "21600",
    "MLFLOW_TRACE_BUFFER_MAX_SIZE": "20000",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
_SECRET_KEY = re.compile(
    r"authorization|proxy-authorization|cookie|set-cookie|extra_headers|x-forwarded-.*|.*api[-_]?key"
    r"|.*(access|refresh|id|bearer|auth)[-_]?token|token|.*password|.*secret",
    re.IGNORECASE,
)


class Tracing:
    """Traces turns, as an observer of the runs that bring them to their end.

    Args:
        destination: Whether the service takes the ``trace_destination`` of its own spans.

    Attributes:
        parameters: More fields of a submission; ``trace_destination`` is among them once it is known.
    """

    def __init__(self, *, destination: bool = False) -> None:
        self.parameters: dict[str, Any] = {}
        self._destination = destination
        self._ready = False
        self._stop = threading.Event()
        self._paused: dict[str, tuple[TurnTrace, asyncio.TimerHandle]] = {}
        self._unwritten: list[TurnTrace] = []

    def start(self) -> None:
        """Begin to set MLflow up, if a tracking server is configured."""
        if os.environ.get("MLFLOW_TRACKING_URI", "").strip():
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._set_up, args=(loop,), name="tracing-set-up", daemon=True).start()
            return
        if any(os.environ.get(f"MLFLOW_EXPERIMENT_{name}", "").strip() for name in ("ID", "NAME")):
            logger.warning("event=tracing_off reason=an experiment is set, but MLFLOW_TRACKING_URI is not")
        self._stop.set()

    def begin(self, turn: Turn, question: Any, *, session: str, user: str) -> TurnTrace | None:
        """A run of a turn begins: its trace, which may be the one that an earlier run began (see ``TurnTrace``)."""
        if self._stop.is_set():
            return None
        from .turn_trace import TurnTrace

        paused = self._resume(turn.thread)
        if paused is not None and paused.turn.turn_id != turn.turn_id:
            paused.close(None)
            paused = None
        return paused or TurnTrace(turn, question, session, user, lambda: self._ready, self._ended)

    def request_headers(self) -> Mapping[str, str]:
        """Headers of a submission: the context of the span that it is part of."""
        if not self._ready:
            return {}
        import mlflow
        from mlflow.tracing import get_tracing_context_headers_for_http_request

        if (span := mlflow.get_current_active_span()) is None:
            return {}
        span.set_attribute("supervisor.posted", True)
        return get_tracing_context_headers_for_http_request()

    async def close(self, within_s: float) -> None:
        """Write what there is, as far as that is done within so many seconds."""
        self._stop.set()
        for thread in list(self._paused):
            self._expire(thread)
        if not self._ready:
            return
        written = asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Thread(target=_flush, args=(loop, written), name="tracing-flush", daemon=True).start()
        try:
            await asyncio.wait_for(written.wait(), within_s)
        except TimeoutError:
            logger.warning("event=traces_lost reason=the tracking server takes too long")

    def _ended(self, trace: TurnTrace, error: BaseException | None) -> None:
        if error is not None or trace.ended or self._stop.is_set() or len(self._paused) >= MOST_PAUSED:
            trace.close(error)
            if self._ready:
                trace.spans.write()
            elif len(self._unwritten) < MOST_UNWRITTEN:
                self._unwritten.append(trace)
            return
        thread = trace.turn.thread
        timer = asyncio.get_running_loop().call_later(PAUSED_S, self._expire, thread)
        self._paused[thread] = (trace, timer)

    def _expire(self, thread: str) -> None:
        if (trace := self._resume(thread)) is not None:
            trace.close(None)

    def _resume(self, thread: str) -> TurnTrace | None:
        trace, timer = self._paused.pop(thread, (None, None))
        if timer is not None:
            timer.cancel()
        return trace

    def _write(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        for trace in unwritten:
            trace.spans.write()

    def _set_up(self, loop: asyncio.AbstractEventLoop) -> None:
        attempt = 0
        while not self._stop.is_set():
            try:
                experiment = _connect()
                if self._destination and (destination := destination_of(experiment)):
                    self.parameters["trace_destination"] = destination
                self._ready = True
                loop.call_soon_threadsafe(self._write)
                logger.info("event=tracing_on experiment=%s", experiment.experiment_id)
                return
            except Exception as error:  # A tracing error must not fail the job.
                reason = " ".join(scrub(str(error)).split())[:300]
                logger.warning("event=tracing_off error=%s reason=%s", type(error).__name__, reason)
            self._stop.wait(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1


def destination_of(experiment: Experiment) -> dict[str, str] | None:
    """Where the service is to write its own spans (docs/wire.md: Tracing); ``None`` outside of Unity Catalog.

    Example:
        >>> from mlflow.entities import Experiment
        >>> from mlflow.entities.trace_location import UnityCatalog
        >>> location = UnityCatalog("main", "traces", "agent")
        >>> destination_of(Experiment("1", "agent", "", "active", trace_location=location))
        {'catalog_name': 'main', 'schema_name': 'traces', 'table_prefix': 'agent'}
    """
    location = getattr(experiment, "trace_location", None)
    names = ("catalog_name", "schema_name", "table_prefix")
    found = {name: value for name in names if (value := getattr(location, name, None))}
    return found if {"catalog_name", "schema_name"} <= found.keys() else None


def hide_secrets(span: LiveSpan) -> None:
    """Take credentials out of a span that ends; MLflow calls it for each one before it is kept."""
    try:
        for key, value in span.attributes.items():
            hidden = HIDDEN if _SECRET_KEY.fullmatch(key) else _without_secrets(value)
            if hidden != value:
                span.set_attribute(key, hidden)
    except Exception:  # Better no content than one that may hold a credential.
        span.set_inputs(HIDDEN)
        span.set_outputs(HIDDEN)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN
            if isinstance(key, str) and isinstance(part, str | Mapping) and _SECRET_KEY.fullmatch(key)
            else _without_secrets(part)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(part) for part in value]
    return value


def _connect() -> Experiment:
    """Set MLflow up in this process, and find the experiment.

    Raises:
        Exception: It cannot be found.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Otherwise the end of a span would block the event loop.
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "true"
    import mlflow
    import mlflow.openai

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip()
    id = os.environ.get("MLFLOW_EXPERIMENT_ID", "").strip()
    if not (id or name) and mlflow.get_tracking_uri().startswith("databricks"):
        raise ValueError("Set MLFLOW_EXPERIMENT_ID or MLFLOW_EXPERIMENT_NAME")
    experiment = mlflow.set_experiment(None if id else name or "Default", id or None)
    mlflow.openai.autolog(silent=True)
    mlflow.tracing.configure(span_processors=[hide_secrets])
    # Made here, on a thread: it may ask the tracking server, and starts git.
    mlflow.tracing.get_bridged_tracer_provider()
    return experiment


def _flush(loop: asyncio.AbstractEventLoop, written: asyncio.Event) -> None:
    import mlflow

    try:
        mlflow.flush_trace_async_logging()
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(written.set)
