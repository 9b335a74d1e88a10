"""Runs of a thread, each in a process that may be killed; what they do is in :mod:`.service_graph`.

:class:`Runs` keeps a helper that has imported everything and forks one process a run (multiprocessing's fork server).
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

PATIENCE_S = 120.0
"""How long a test waits for what must come. Never a measure of speed."""


@dataclass(frozen=True)
class Spec:
    """A run.

    Attributes:
        base_url: Where the service is.
        store: SQLite file with checkpoints and ledger.
        thread: The thread's id.
        given: ``{"ask": TEXT}``, ``{"answer": VALUE}``, or None to go on.
        tools: Hosted tools.
        functions: File to which the client-side function ``look_up`` adds a line a run; None declares no function.
        options: More settings of the graph.
    """

    base_url: str
    store: str
    thread: str
    given: Any
    tools: list[dict[str, Any]] = field(default_factory=list)
    functions: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class End:
    """How a run ended.

    Attributes:
        status: ``answered``, ``waits`` for a person, ``unfinished``, or ``error``.
        asked: Values of the interrupts.
        texts: Texts of all messages of the thread, in order, without those that are empty.
        error: Class of the error.
        said: The error in words.
        job: The thread's job.
    """

    status: str
    asked: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    error: str | None = None
    said: str | None = None
    job: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The last thing that was said."""
        return self.texts[-1] if self.texts else ""


class Run:
    """A run in a process of its own."""

    def __init__(self, process: BaseProcess, events: Connection) -> None:
        self._process = process
        self._events = events

    def end(self) -> End:
        """Wait for its end.

        Raises:
            AssertionError: It ended without a word, or said nothing for too long.
        """
        try:
            assert self._events.poll(PATIENCE_S), "the run does not end"
            return End(**self._events.recv())
        except EOFError:
            raise AssertionError(f"the run ended without a word: {self._process.exitcode}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9, and see it gone."""
        self._process.kill()
        self._process.join(PATIENCE_S)
        assert self._process.exitcode is not None
        self._events.close()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.is_alive()


class Runs:
    """Starts runs."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.support.service_graph"])
        multiprocessing.forkserver.ensure_running()  # It imports while the services start.
        self._started: list[Run] = []

    def start(self, spec: Spec) -> Run:
        """Start one."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_drive, args=(asdict(spec), theirs), daemon=True)
        process.start()
        theirs.close()
        run = Run(process, ours)
        self._started.append(run)
        return run

    def kill_all(self) -> int:
        """Kill what still runs; gives how many."""
        left = [run for run in self._started if run.alive]
        self._started.clear()
        for run in left:
            run.kill()
        return len(left)


def _drive(given: dict[str, Any], events: Connection) -> None:
    from tests.support import service_graph

    service_graph.drive(given, events)
