"""The agent server: its start, its recovery after a kill, a long answer, and many concurrent streams."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.postgres import PostgresServer
from tests.support.server_process import ServerProcess

from .measure import Row, in_fresh_process

STARTS = 3
STREAMS = 200
PROBED_S = 15.0
WORDS = 5000
LASTS_S = 6.0


def rows() -> list[Row]:
    """All of the server's figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        return [*_starts(path / "starts"), *_recovery(path / "returns"), *_answers(path / "answers")]


def _starts(folder: Path) -> list[Row]:
    """Process start to healthy, alternating, so that both sides have the same conditions."""
    ours, published = [], []
    with LocalSupervisor(folder / "service") as service:
        for number in range(STARTS):
            published.append(_published_start(folder))
            server = ServerProcess(folder / f"server-{number}", service=service.url)
            began = time.monotonic()
            server.launch()
            _until_healthy(server.url)
            ours.append(time.monotonic() - began)
            server.kill()
    best = Row.against(
        "server", "Process start to healthy", "s", statistics.median(ours), statistics.median(published), 0.65
    )
    return [best]


def _published_start(folder: Path) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    port = ServerProcess(folder / "unused").port
    command = [sys.executable, "-m", "uvicorn", "benchmarks.published_server:app", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    began = time.monotonic()
    with (folder / "published.txt").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _until_healthy(f"http://127.0.0.1:{port}")
        return time.monotonic() - began
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _recovery(folder: Path) -> list[Row]:
    """A server is killed while a job runs: recovery by a restart, and by another replica."""
    with (
        PostgresServer() as postgres,
        postgres.database() as state_url,
        LocalSupervisor(folder / "service") as service,
        ServerProcess(folder / "a", service=service.url, state_url=state_url) as a,
        ServerProcess(folder / "b", service=service.url, state_url=state_url) as b,
        httpx.Client(trust_env=False, timeout=120) as http,
    ):
        job = _background(http, a.url, {"duration_s": 60})
        remote = _remote_id(http, a.url, job)
        a.kill()
        polls = service.job(remote)["polls"]
        a.launch()
        _until(lambda: http.get(f"{a.url}/responses/none").status_code == 404)
        serves = time.monotonic()
        _until(lambda: service.job(remote)["polls"] > polls)
        first_poll = time.monotonic() - serves

        lags = []
        for _ in range(3):
            job = _background(http, a.url, {"duration_s": LASTS_S})
            remote = _remote_id(http, a.url, job)
            a.kill()
            ends = service.job(remote)["created_at"] + LASTS_S
            for _line in _stream(http, f"{b.url}/responses/{job}?stream=true"):
                pass
            lags.append(time.time() - ends)
            a.start()
    return [
        Row.below("server", "After kill -9: first poll once it can serve", "s", max(0.0, first_poll), 0.5),
        Row.below("server", "Killed: another replica has the end, after the job's", "s", max(lags), 2.0),
    ]


def _answers(folder: Path) -> list[Row]:
    """A long answer, and `/health` during many streams."""
    with (
        LocalSupervisor(folder / "service") as service,
        ServerProcess(folder / "server", service=service.url) as server,
        httpx.Client(trust_env=False, timeout=120) as http,
    ):
        list(_stream(http, f"{server.url}/invocations", _ask({"reply": "hello", "duration_s": 0.2})))
        directive = {"reply_words": WORDS, "duration_s": 5}
        lines = list(_stream(http, f"{server.url}/invocations", _ask(directive)))
        ended = time.time()
        newest = max(service.submissions()["jobs"], key=lambda job: job["created_at"])
        lag = ended - (newest["created_at"] + 5)
        wire = sum(len(line.encode()) + 1 for line in lines)
        text = _text_bytes(lines)
        p99 = asyncio.run(_health_under_streams(server.url))
    return [
        Row.below("server", f"{WORDS:,} words: all sent after the job is done", "s", lag, 1.0),
        Row.below("server", f"{WORDS:,} words: on the wire for a byte of text", "bytes", wire / text, 4.0),
        Row.below("server", f"{STREAMS} streams: p99 of /health", "ms", p99 * 1000, 100.0),
    ]


async def _health_under_streams(url: str) -> float:
    """99th percentile of `/health`, in seconds, while jobs with new items are streamed."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(trust_env=False, timeout=120, limits=limits) as http:

        async def follow(number: int) -> None:
            body = _ask({"reply_words": 200, "duration_s": 15}, f"Question {number}")
            async with http.stream("POST", f"{url}/invocations", json=body) as answer:
                async for _ in answer.aiter_raw():
                    pass

        streams = [asyncio.create_task(follow(number)) for number in range(STREAMS)]
        probed = await asyncio.to_thread(in_fresh_process, __name__, url=url, seconds=PROBED_S)
        await asyncio.gather(*streams)
    return float(probed["p99_s"])


def measure(url: str, seconds: float) -> dict[str, float]:
    """In a fresh process, which reads no stream: the duration of `/health`."""
    took = []
    ends = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=120) as http:
        while time.monotonic() < ends:
            began = time.monotonic()
            http.get(f"{url}/health")
            took.append(time.monotonic() - began)
            time.sleep(0.02)
    return {"p99_s": statistics.quantiles(took, n=100)[98], "most_s": max(took)}


_numbers = itertools.count()


def _ask(directive: dict[str, Any], question: str | None = None) -> dict[str, Any]:
    text = f"{question or f'Question number {next(_numbers)}'} [[local: {json.dumps(directive)}]]"
    return {"input": [{"role": "user", "content": text}], "stream": True}


def _background(http: httpx.Client, url: str, directive: dict[str, Any]) -> str:
    body = {**_ask(directive), "stream": False, "background": True}
    id: str = http.post(f"{url}/responses", json=body).raise_for_status().json()["id"]
    return id


def _remote_id(http: httpx.Client, url: str, id: str) -> str:
    while True:
        known = http.get(f"{url}/responses/{id}").json()["custom_outputs"]["response_id"]
        if known:
            return str(known)
        time.sleep(0.05)


def _stream(http: httpx.Client, url: str, body: dict[str, Any] | None = None) -> Iterator[str]:
    with http.stream("POST" if body else "GET", url, json=body) as answer:
        yield from answer.iter_lines()


def _text_bytes(lines: list[str]) -> int:
    """Bytes of the text of the message that was streamed."""
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [event["delta"] for event in events if event.get("type") == "response.output_text.delta"]
    return len("".join(deltas).encode())


def _until_healthy(url: str) -> None:
    def healthy() -> bool:
        try:
            return httpx.get(f"{url}/health", trust_env=False, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    _until(healthy)


def _until(true: Callable[[], bool], within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(httpx.TransportError):
            if true():
                return
        assert time.monotonic() < deadline, f"not true within {within_s:g} s"
        time.sleep(0.01)
