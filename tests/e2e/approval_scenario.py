"""A question that needs a person and client-side functions, through as many processes as it takes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.forked_processes import Event, ForkServer
from tests.e2e.scenario import Items, Scenario, Store
from tests.support.local_supervisor_process import RESPONSES, LocalSupervisor

NewApprovalScenario = Callable[..., "ApprovalScenario"]


class ApprovalForkServer(ForkServer):
    """A fork server whose children run :mod:`.approvals_runner`."""

    def __init__(self, log: Path) -> None:
        super().__init__(log, "tests.e2e.approvals_runner")


def approval_fork_server(folder: Path) -> Iterator[ApprovalForkServer]:
    """The fork server of a module of tests."""
    with ApprovalForkServer(folder / "stderr.txt") as server:
        yield server


def approval_scenarios(
    fork_server: ForkServer, service: LocalSupervisor, shared_postgres: Store, folder: Path
) -> NewApprovalScenario:
    """Makes scenarios that are kept in a SQLite file of their own, or in the shared database."""

    def make(store: str = "sqlite", durability: str = "sync", **behaviour: Any) -> ApprovalScenario:
        scenario = ApprovalScenario(
            fork_server, service, shared_postgres, durability, behaviour={"duration_s": 0.1, **behaviour}
        )
        scenario.spec["file"] = str(folder / f"{scenario.thread}.txt")
        if store == "sqlite":
            scenario.store = Store("sqlite", str(folder / f"{scenario.thread}.sqlite"))
        return scenario

    return make


@dataclass(frozen=True)
class Effect:
    """A row of the ledger."""

    round: int
    kind: str
    id: str
    attempt: int
    outcome: dict[str, Any] | None

    @property
    def unknown(self) -> bool:
        """Whether it was begun and nobody recorded what became of it."""
        return self.outcome is None


@dataclass
class ApprovalScenario(Scenario):
    """A :class:`Scenario` whose job asks a person, or for a function of the caller's.

    Attributes:
        said: What a person said so far, by kind of the question: ids, and yes or no.
        opening: What the question begins with.
    """

    said: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)
    opening: str = "Please answer"

    @property
    def question(self) -> str:
        """The text that is asked."""
        return f"{self.opening} {self.name}. [[local: {json.dumps(self.behaviour)}]]"

    @property
    def effects(self) -> list[Effect]:
        """What the ledger knows, without claims that were given back."""
        assert self.store is not None
        rows = self.store.execute(
            "SELECT e.round, e.kind, e.id, e.attempt, e.outcome FROM supervisor_turns t "
            "JOIN supervisor_effects e USING (turn_id) WHERE t.thread = ? AND e.worker IS NOT NULL "
            "ORDER BY t.seq, e.seq",
            self.thread,
        )
        return [Effect(*row[:4], outcome=json.loads(row[4]) if row[4] else None) for row in rows]

    def unknown(self, kind: str) -> list[Effect]:
        """Effects of this kind of which nobody knows what became of them."""
        return [effect for effect in self.effects if effect.kind == kind and effect.unknown]

    @property
    def lines(self) -> list[str]:
        """What the functions wrote."""
        file = Path(self.spec["file"])
        return file.read_text().split() if file.exists() else []

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """The service's jobs for the question, each with its request, in the order of their creation."""
        found = self.service.submissions(self.name)["jobs"]
        return [self.service.job(job["id"]) for job in found]

    @property
    def rounds(self) -> list[int]:
        """The round of each job."""
        found = self.service.submissions(self.name)["jobs"]
        return [job["round"] for job in found]

    def answer(self, end: Event, decide: Callable[[str, str], Any]) -> dict[str, Any]:
        """A person's answer to everything that a run waits for.

        Args:
            end: The run's last word.
            decide: Gives the decision, from the kind of the question and the id.
        """
        (asked,) = end["asked"]
        value = asked["value"]
        decisions = [decide(value["kind"], id) for id in value["ids"]]
        return {"answer": {asked["id"]: {"decisions": decisions}}}

    def check_consistent(self, end: Event) -> None:
        """Service, ledger and thread agree, and each part happened once.

        Every round has one job; each decision and each output is in the request of exactly one round after
        its own; the thread holds each item once, in the order in which it came about.
        """
        assert end["status"] == "answered", end
        jobs = {job["round"]: job for job in self.jobs if job["id"] in self._response_ids}
        check_told_once(jobs, self.recorded_decisions)
        outputs = {number: output_of(self.service, job["id"]) for number, job in jobs.items()}
        check_thread(end["messages"], outputs, jobs)

    @property
    def recorded_decisions(self) -> dict[str, bool]:
        """The decisions on the service's requests, as the ledger has them."""
        return {
            effect.id: effect.outcome["approve"]
            for effect in self.effects
            if effect.kind == "decision" and effect.outcome is not None and "asked" not in effect.outcome
        }

    @property
    def _response_ids(self) -> set[str]:
        return {
            effect.outcome["response_id"]
            for effect in self.effects
            if effect.kind == "submit" and effect.outcome and "response_id" in effect.outcome
        }


def output_of(service: LocalSupervisor, response_id: str) -> Items:
    """What the service has for a job, which is over."""
    url = f"{service.url}{RESPONSES}/{response_id}"
    answer = httpx.get(url, headers={"authorization": "Bearer x"}, trust_env=False, timeout=30).json()
    assert answer["status"] == "completed"
    found: Items = answer["output"]
    return found


def check_told_once(jobs: dict[int, dict[str, Any]], decisions: dict[str, bool]) -> None:
    """Each decision reached the service once as such, in the follow-up of its round."""
    told = [
        (number, item["approval_request_id"], item["approve"])
        for number, job in jobs.items()
        for item in job["request"]["input"]
        if item.get("type") == "mcp_approval_response"
    ]
    assert Counter(id for _, id, _ in told) == Counter(id[:64] for id in decisions)
    assert {id: approve for _, id, approve in told} == {id[:64]: yes for id, yes in decisions.items()}
    for number, id, _ in told:
        assert id.startswith(f"call_r{number - 1}_")


def check_thread(messages: Items, outputs: dict[int, Items], jobs: dict[int, dict[str, Any]]) -> None:
    """The thread has the question, and of each round what its job put out, the decisions and the outputs."""
    ids = [message["id"] for message in messages]
    assert len(set(ids)) == len(ids), ids
    assert [item.get("role") for message in messages for item in message["items"]].count("user") == 1
    assert messages[0]["items"][0]["role"] == "user"
    found = [brief(item) for message in messages[1:] for item in message["items"]]
    expected = []
    for number in sorted(jobs):
        own = new_in(outputs[number], jobs[number]["request"]["input"])
        expected += [brief(item) for item in own]
        if number + 1 in jobs:
            expected += answers_to(own, found)
    assert found == expected


def new_in(output: Items, sent: Items) -> Items:
    """The output without the history that the service repeats at its head."""
    history = [
        item
        for item in sent
        if item.get("role") == "assistant" or item.get("type") in ("function_call", "function_call_output")
    ]
    repeated = output[: len(history)]
    if [text_of(item) for item in repeated] == [text_of(item) for item in history]:
        return output[len(history) :]
    return output


def answers_to(asked: Items, found: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """What the thread must say to each request and open call of a round, in order."""
    done = {item["call_id"] for item in asked if item["type"] == "function_call_output"}
    answers = []
    for kind, key, answer in (
        ("mcp_approval_request", "id", "mcp_approval_response"),
        ("function_call", "call_id", "function_call_output"),
    ):
        for item in asked:
            if item["type"] == kind and item[key] not in done:
                matching = [each for each in found if each[:2] == (answer, item[key])]
                # The service gives an output of its own for what was approved or refused, a round later.
                assert len(matching) == 1, (item, found)
                answers += matching
    return answers


def brief(item: dict[str, Any]) -> tuple[str, ...]:
    """What makes an item what it is."""
    key = item.get("approval_request_id") or item.get("call_id") or item.get("id") or ""
    return (item["type"], key, text_of(item))


def text_of(item: dict[str, Any]) -> str:
    """What an item says."""
    content = item.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    said = content or item.get("output") or item.get("arguments") or item.get("approve")
    return said if isinstance(said, str) else json.dumps(said)
