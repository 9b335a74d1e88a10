"""One question on one thread, through as many processes as it takes; and what must hold at its end."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.e2e.forked_processes import Event, ForkServer, Process, wait_until
from tests.support.local_supervisor_process import RESPONSES, LocalSupervisor

Items = list[dict[str, Any]]
Case = tuple[Any, ...]

WORDS = ("first", "second", "third", "fourth")
ITEMS: Items = [
    {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": f"The {word} part."}],
    }
    for word in WORDS
]
PACE = {"items": ITEMS, "duration_s": 0.6}
"""A job of four messages over 0.6 s."""


@dataclass(frozen=True)
class Store:
    """Where checkpoints and ledger are kept: ``sqlite`` with a file, or ``postgres`` with a URL."""

    kind: str
    address: str

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read with SQL; placeholders are question marks."""
        if self.kind == "sqlite":
            if not Path(self.address).exists():
                return []
            connection: Any = sqlite3.connect(self.address, timeout=30)
        else:
            connection = psycopg.connect(self.address, autocommit=True)
            statement = statement.replace("?", "%s")
        try:
            return list(connection.execute(statement, values).fetchall())
        except (sqlite3.OperationalError, psycopg.errors.UndefinedTable):
            return []  # no table yet
        finally:
            connection.close()


@dataclass
class Scenario:
    """A question on a thread of its own.

    Attributes:
        fork_server: Starts the processes.
        service: The stand-in of the service.
        store: Where checkpoints and ledger are.
        durability: What the graph is compiled with.
        behaviour: What the service does with the question.
        spec: More for the processes (:func:`.runner.run_graph`).
        approvals: How often a person agreed to send the question once more.
        log: Gets what the processes say on stderr, in place of the common log.
    """

    fork_server: ForkServer
    service: LocalSupervisor
    store: Store | None
    durability: str = "sync"
    behaviour: dict[str, Any] = field(default_factory=lambda: dict(PACE))
    spec: dict[str, Any] = field(default_factory=dict)
    thread: str = field(default_factory=lambda: f"thread-{uuid.uuid4().hex[:12]}")
    name: str = field(default_factory=lambda: f"question-{uuid.uuid4().hex[:12]}")
    approvals: int = 0
    log: Path | None = None

    @property
    def question(self) -> str:
        """The text that is asked."""
        return f"Please answer {self.name}. [[local: {json.dumps(self.behaviour)}]]"

    @property
    def again(self) -> dict[str, str]:
        """The input that asks it."""
        return {"ask": self.question}

    def start(self, given: Any, function: str = "run_graph", *, held: bool = False, **spec: Any) -> Process:
        """Start a process that runs the thread with this input; ``None`` resumes."""
        return self.fork_server.start(
            function,
            {
                "store": [self.store.kind, self.store.address] if self.store else None,
                "durability": self.durability,
                "host": self.service.url,
                "thread": self.thread,
                "input": given,
                **self.spec,
                **spec,
            },
            held=held,
            log=self.log,
        )

    def run(self, given: Any, **spec: Any) -> Event:
        """Start such a process and wait for its last word."""
        return self.start(given, **spec).end()

    def resume(self) -> Event:
        """Resume with nothing; where nothing is on disk, ask once more."""
        end = self.run(None)
        if end.get("error") == "NothingToResumeError":
            end = self.run(self.again)
        return end

    def ledger(self) -> str:
        """What the ledger knows of the last submission: ``nothing``, ``claimed``, or the job's id."""
        assert self.store is not None
        rows = self.store.execute(
            "SELECT e.worker, e.outcome FROM supervisor_turns t JOIN supervisor_effects e USING (turn_id) "
            "WHERE t.thread = ? AND e.kind = 'submit' ORDER BY t.seq DESC, e.round DESC LIMIT 1",
            self.thread,
        )
        if not rows or rows[0][0] is None:
            return "nothing"
        outcome = json.loads(rows[0][1] or "{}")
        return str(outcome.get("response_id", "claimed"))

    @property
    def submissions(self) -> int:
        """How many jobs the service has for the question."""
        return int(self.service.submissions(self.name)["count"])

    @property
    def polls(self) -> int:
        """How often the service was asked for the question's jobs."""
        return sum(job["polls"] for job in self.service.submissions(self.name)["jobs"])

    def wait_for_polls(self, number: int) -> None:
        """Wait until the service was asked for the job so often."""
        wait_until(lambda: self.polls >= number, f"poll {number} of {self.name}")

    def items(self, response_id: str) -> Items:
        """What the service has for a job."""
        answer = httpx.get(
            f"{self.service.url}{RESPONSES}/{response_id}",
            headers={"authorization": "Bearer x"},
            trust_env=False,
            timeout=30,
        )
        assert answer.json()["status"] == "completed"
        found: Items = answer.json()["output"]
        return found

    def check_answered(self, end: Event, *, turns: int = 1) -> None:
        """The thread holds the question once a turn, and each item of its job exactly once, in order."""
        assert end["status"] == "answered", end
        response_id = end["job"]["response_id"]
        self.check_messages(end["messages"], response_id, turns=turns)
        if self.store is not None:
            assert self.ledger() == response_id

    def check_messages(self, messages: list[dict[str, Any]], response_id: str, *, turns: int = 1) -> None:
        """They are the question once a turn, and each item of the last job exactly once, in order."""
        questions = [message for message in messages if message["type"] == "human"]
        assert len(questions) == turns, [message["id"] for message in messages]
        last = messages.index(questions[-1])
        answer = messages[last + 1 :]
        echoed = {item.get("id") for message in messages[:last] for item in message["items"]}
        expected = [item for item in self.items(response_id) if item["id"] not in echoed]
        assert len(expected) == len(self.behaviour["items"])
        assert [item for message in answer for item in message["items"]] == expected
        assert [message["id"] for message in answer] == [f"{response_id}:{n}" for n in range(len(expected))]


def in_parallel(check: Callable[..., None], cases: Iterable[Case], *, workers: int = 4) -> None:
    """Check every case, a few at a time (most of a scenario is waiting).

    Raises:
        ExceptionGroup: What went wrong, each with its case.
    """
    errors: list[Exception] = []

    def run(case: Case) -> None:
        try:
            check(*case)
        except Exception as error:
            error.add_note(f"in the case {case}")
            errors.append(error)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, cases))
    if errors:
        raise ExceptionGroup(f"{len(errors)} cases failed", errors)
