"""Many jobs at once, while random servers are killed and started again: all end, and none is submitted twice."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.replicas.conftest import SEED
from tests.replicas.responses_client import (
    BROKEN,
    ResponsesClient,
    allow,
    new_thread,
    question,
    requests_in,
    text_of,
    user,
)
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.server_process import ServerProcess

logger = logging.getLogger(__name__)

SETTLED_WITHIN_S = 240.0
STOPPED_WITHIN_S = 60.0
_STATUSES_OF_KEPT_JOBS = (409, 429, 503)


@dataclass
class Customer:
    """Somebody who wants an answer to one question, whatever becomes of the servers.

    Attributes:
        name: Name of the thread, and what is asked.
        resubmitted: How often they said that a job of unknown outcome is to be submitted again.
        answer: The response with which it ended.
    """

    servers: list[ServerProcess]
    chance: random.Random
    duration_s: float
    name: str = field(default_factory=new_thread)
    resubmitted: int = 0
    answer: dict[str, Any] | None = None
    tries: Counter[str] = field(default_factory=Counter)

    def insist(self) -> None:
        """Ask until there is an answer, each time a server by chance."""
        # Some POSTs take a while, so that kills come into them.
        slow = {"answer_delay_s": 1.0} if self.chance.random() < 0.3 else {}
        asked = question(
            f"Storm {self.name}", reply=f"It is {self.name}.", duration_s=self.duration_s, **slow
        )
        said = [user(asked)]
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while self.answer is None:
            assert time.monotonic() < deadline, (self.name, self.tries)
            try:
                response = self._ask(said)
            except BROKEN:
                self.tries["broken"] += 1
            else:
                if response is not None:
                    said = self._consider(response, said)
                    continue
            time.sleep(self.chance.uniform(0.1, 0.5))

    def _ask(self, said: list[dict[str, Any]]) -> dict[str, Any] | None:
        client = ResponsesClient(self.chance.choice(self.servers).url)
        body = {"input": said, "context": {"conversation_id": self.name}}
        try:
            if self.chance.random() < 0.5:
                return self._streamed(client, body)
            answer = client.post(body)
            self.tries[f"{answer.status_code}"] += 1
            if answer.status_code in _STATUSES_OF_KEPT_JOBS:
                return None
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found
        finally:
            client.close()

    def _streamed(self, client: ResponsesClient, body: dict[str, Any]) -> dict[str, Any] | None:
        answer = client.send(body)
        with answer as opened:
            if opened.status_code in _STATUSES_OF_KEPT_JOBS:
                return None
            heard = client.read(opened)
        self.tries["stream" if heard.done else "broken stream"] += 1
        ended = heard.done and heard.events[-1]["type"] in ("response.completed", "response.failed")
        return heard.response if ended else None

    def _consider(self, response: dict[str, Any], said: list[dict[str, Any]]) -> list[dict[str, Any]]:
        pending = requests_in(response)
        if response["custom_outputs"]["pending"]:
            (asked,) = pending
            assert asked["name"] == "resubmit_job", asked
            self.resubmitted += 1
            return [*said, asked, allow(asked)]
        self.answer = response
        return said


class Storm(threading.Thread):
    """Kills a server every so often, and starts it again.

    Args:
        servers: Of which to choose.
        chance: What chooses.
        pause_s: Seconds between two kills, twice that at most.
        stops: Share of the kills that are a SIGTERM, as of a deployment.
    """

    def __init__(
        self, servers: list[ServerProcess], chance: random.Random, pause_s: float, stops: float
    ) -> None:
        super().__init__()
        self.kills = 0
        self.error: BaseException | None = None
        self._servers, self._chance, self._pause_s, self._stops = servers, chance, pause_s, stops
        self._over = threading.Event()

    def run(self) -> None:
        """Until it is over."""
        try:
            while not self._over.wait(self._chance.uniform(0.5, 2) * self._pause_s):
                server = self._chance.choice(self._servers)
                if self._chance.random() < self._stops:
                    assert server.terminate(STOPPED_WITHIN_S) is not None, "it did not end by itself"
                else:
                    server.kill()
                self.kills += 1
                server.start()
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """Let the servers live."""
        self._over.set()
        self.join()
        assert self.error is None, self.error


def weather(
    servers: list[ServerProcess],
    service: LocalSupervisor,
    *,
    jobs: int,
    duration_s: tuple[float, float],
    pause_s: float,
    stops: float,
) -> None:
    """Let that many customers ask at once in a storm, and count."""
    chance = random.Random(SEED)
    customers = [
        Customer(servers, random.Random(chance.random()), chance.uniform(*duration_s)) for _ in range(jobs)
    ]
    storm = Storm(servers, random.Random(chance.random()), pause_s, stops)
    storm.start()
    try:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(Customer.insist, customers))
    finally:
        storm.end()
    submitted = {
        each.name: [job["connection"] for job in service.submissions(f"Storm {each.name}")["jobs"]]
        for each in customers
    }
    tries = sum((each.tries for each in customers), Counter())
    resubmitted = sum(each.resubmitted for each in customers)
    logger.info("%d jobs, %d kills, %d unknown outcomes, %s", jobs, storm.kills, resubmitted, dict(tries))
    assert storm.kills > 0
    for each in customers:
        assert each.answer is not None
        assert each.answer["status"] == "completed", each.answer
        assert text_of(each.answer) == f"It is {each.name}."
        # One more for each time that a person said so; and that one only if the first one had arrived.
        assert 1 <= len(submitted[each.name]) <= 1 + each.resubmitted, (each.name, submitted[each.name])


def test_jobs_in_a_storm_of_kills_all_end_with_one_submission_each(
    replicas: list[ServerProcess], service: LocalSupervisor
) -> None:
    weather(replicas, service, jobs=10, duration_s=(1, 4), pause_s=1.0, stops=0)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_hundred_jobs_in_a_storm_of_kills_all_end_with_one_submission_each(
    replicas: list[ServerProcess], service: LocalSupervisor
) -> None:
    weather(replicas, service, jobs=100, duration_s=(2, 25), pause_s=1.0, stops=0.3)
