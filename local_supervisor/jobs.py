"""Jobs and counters in SQLite, so that they survive the process."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .behaviour import Behaviour, parse
from .plan import ToolRun
from .script import Script

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, created_at REAL, question TEXT,
    input_digest TEXT, idempotency_key TEXT, round INTEGER, bearer TEXT, traceparent TEXT, connection TEXT,
    polls INTEGER, cancelled_after REAL, behaviour TEXT, request TEXT, script TEXT);
CREATE INDEX IF NOT EXISTS jobs_by_key ON jobs (idempotency_key);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, n INTEGER);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS tool_runs (
    job_id TEXT, call_id TEXT, name TEXT, arguments TEXT, state TEXT, result TEXT,
    PRIMARY KEY (job_id, call_id));
"""


@dataclass
class Job:
    """A job as stored. `connection`: how the POST that created it ended for its client."""

    id: str
    created_at: float
    question: str
    input_digest: str
    idempotency_key: str | None
    round: int
    bearer: str
    traceparent: str | None
    behaviour: Behaviour
    request: dict[str, Any]
    script: Script
    connection: str = "open"
    polls: int = 0
    cancelled_after: float | None = None
    bodies: dict[int, bytes] = field(default_factory=dict)
    """Rendered responses, by the number of changes so far: a cache, not stored."""

    def elapsed(self, now: float) -> float:
        """The position in the script, in seconds."""
        if self.cancelled_after is not None:
            return self.cancelled_after
        if self.behaviour.polls_to_finish is None:
            return self.script.reachable(now - self.created_at)
        refused = len(self.behaviour.retrieve_errors) + self.behaviour.not_found_first
        steps = min(max(0, self.polls - refused), self.behaviour.polls_to_finish)
        if steps == self.behaviour.polls_to_finish:
            return self.script.reachable(self.script.end)
        return self.script.reachable(self.script.end * steps / self.behaviour.polls_to_finish)

    def status(self, now: float) -> str:
        """The status that a retrieve would return."""
        return "cancelled" if self.cancelled_after is not None else self.script.status(self.elapsed(now))


class JobStore:
    """Stores jobs, tool runs, counters and settings. Only one process may use a directory at a time.

    Args:
        directory: Directory of the database file; created if missing.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._db = sqlite3.connect(directory / "jobs.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        # nothing is lost when the process is killed; only a power cut loses data
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(_SCHEMA)
        self._jobs: dict[str, Job] = {}

    def add(self, job: Job, runs: list[ToolRun]) -> None:
        """Store a new job and its tool runs, in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(
            "INSERT INTO jobs VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                job.id, job.created_at, job.question, job.input_digest, job.idempotency_key, job.round,
                job.bearer, job.traceparent, job.connection, job.polls, job.cancelled_after,
                job.behaviour.model_dump_json(exclude_defaults=True), json.dumps(job.request),
                job.script.to_json(),
            ),
        )  # fmt: skip
        for run in runs:
            self._db.execute(
                "INSERT OR IGNORE INTO tool_runs VALUES (?,?,?,?,'waiting',NULL)",
                (job.id, run.call_id, run.name, run.arguments),
            )
        self._db.execute("COMMIT")
        self._jobs[job.id] = job

    def get(self, job_id: str) -> Job | None:
        """The job with this id."""
        if (job := self._jobs.get(job_id)) is None:
            row = self._db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                return None
            job = self._jobs[job_id] = _job(row)
        return job

    def by_idempotency_key(self, key: str) -> Job | None:
        """The first job that was created with this key."""
        row = self._db.execute(
            "SELECT id FROM jobs WHERE idempotency_key = ? ORDER BY number", (key,)
        ).fetchone()
        return self.get(row[0]) if row else None

    def all(self, question: str | None = None) -> list[Job]:
        """All jobs in the order of their creation, or those whose question contains a text."""
        rows = self._db.execute("SELECT id, question FROM jobs ORDER BY number").fetchall()
        found = [self.get(row[0]) for row in rows if question is None or question in row[1]]
        return [job for job in found if job is not None]

    def count_poll(self, job: Job) -> None:
        """Count a retrieve."""
        job.polls += 1
        self._db.execute("UPDATE jobs SET polls = ? WHERE id = ?", (job.polls, job.id))

    def set_connection(self, job: Job, connection: str) -> None:
        """Record how the POST ended for its client."""
        job.connection = connection
        self._db.execute("UPDATE jobs SET connection = ? WHERE id = ?", (connection, job.id))

    def cancel(self, job: Job, elapsed: float) -> None:
        """Stop the job at this position."""
        job.cancelled_after = elapsed
        job.bodies.clear()
        self._db.execute("UPDATE jobs SET cancelled_after = ? WHERE id = ?", (elapsed, job.id))

    def rewrite(self, job: Job, script: Script) -> None:
        """Replace the job's script."""
        job.script = script
        job.bodies.clear()
        self._db.execute("UPDATE jobs SET script = ? WHERE id = ?", (script.to_json(), job.id))

    def tool_runs(self, *states: str) -> list[tuple[str, ToolRun]]:
        """Tool runs in these states, each with its job's id."""
        marks = ",".join("?" * len(states))
        rows = self._db.execute(
            f"SELECT job_id, call_id, name, arguments FROM tool_runs WHERE state IN ({marks})", states
        )
        return [(row[0], ToolRun(*row[1:])) for row in rows.fetchall()]

    def set_tool_run(self, job_id: str, call_id: str, state: str, result: str | None = None) -> None:
        """Record the state and result of a tool run."""
        self._db.execute(
            "UPDATE tool_runs SET state = ?, result = ? WHERE job_id = ? AND call_id = ?",
            (state, result, job_id, call_id),
        )

    def count(self, name: str, by: int = 1) -> int:
        """Add to a counter and return its previous value."""
        row = self._db.execute("SELECT n FROM counters WHERE name = ?", (name,)).fetchone()
        before = int(row[0]) if row else 0
        if by:
            self._db.execute("INSERT OR REPLACE INTO counters VALUES (?,?)", (name, before + by))
        return before

    def setting(self, name: str) -> dict[str, Any] | None:
        """A stored setting."""
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        found: dict[str, Any] | None = json.loads(row[0]) if row else None
        return found

    def set_setting(self, name: str, value: dict[str, Any] | None) -> None:
        """Store a setting, or delete it (None)."""
        self._db.execute("DELETE FROM settings WHERE name = ?", (name,))
        if value is not None:
            self._db.execute("INSERT INTO settings VALUES (?,?)", (name, json.dumps(value)))

    def reset(self) -> None:
        """Delete jobs, tool runs and counters, but not the settings."""
        self._jobs.clear()
        self._db.executescript("DELETE FROM jobs; DELETE FROM counters; DELETE FROM tool_runs;")

    def close(self) -> None:
        """Close the database."""
        self._db.close()


_COLUMNS = (
    "id, created_at, question, input_digest, idempotency_key, round, bearer, traceparent, connection, polls, "
    "cancelled_after, behaviour, request, script"
)


def _job(row: tuple[Any, ...]) -> Job:
    return Job(
        id=row[0],
        created_at=row[1],
        question=row[2],
        input_digest=row[3],
        idempotency_key=row[4],
        round=row[5],
        bearer=row[6],
        traceparent=row[7],
        connection=row[8],
        polls=row[9],
        cancelled_after=row[10],
        behaviour=parse(json.loads(row[11])),
        request=json.loads(row[12]),
        script=Script.from_json(row[13]),
    )


def now() -> float:
    """Wall-clock time, so that jobs advance while the process is down."""
    return time.time()
