"""A thread of conversation with one of the services, through as many processes as it takes, and its effects."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import httpx

from tests.support.service_proxy import Proxy
from tests.support.service_runner import PATIENCE_S, End, Run, Runs, Spec


@dataclass(frozen=True)
class Service:
    """A service that runs.

    Attributes:
        base_url: Its address, as its client is given it.
        folder: Where it leaves its traces (``NAME.effects``, ``NAME.jobs``) and looks for open gates.
        tools: Address of the MCP server that it calls.
        creates: Ending of the path whose POSTs create jobs.
        list_jobs: Gives the ids of the jobs of a reference, oldest first; default: those in ``REFERENCE.jobs``.
    """

    base_url: str
    folder: Path
    tools: str = "http://127.0.0.1:1/mcp"
    creates: str = "/responses"
    list_jobs: Callable[[str], list[str]] | None = None


@dataclass
class Story:
    """A thread of its own.

    Attributes:
        service: Who is asked.
        proxy: What stands in between.
        runs: Starts the processes.
        folder: Where checkpoints, the ledger and the traces of the client's function are.
        spec: More for the runs (:class:`.service_runner.Spec`).
        options: More settings of the graph.
        require_approval: What the MCP tool is declared with.
        reference: Names the story in its questions and traces.
    """

    service: Service
    proxy: Proxy
    runs: Runs
    folder: Path
    spec: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    require_approval: Literal["always", "never"] = "always"
    reference: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def start(self, given: Any, **options: Any) -> Run:
        """Start a run; ``None`` goes on with what there is."""
        spec = Spec(
            base_url=self.proxy.base_url,
            store=str(self.folder / f"{self.reference}.sqlite"),
            thread=self.reference,
            given=given,
            tools=[self.shop],
            functions=str(self.folder / f"{self.reference}.functions"),
            options={**self.options, **options},
        )
        return self.runs.start(replace(spec, **self.spec))

    def start_asking(self, text: str, **options: Any) -> Run:
        """Start a run that asks a question."""
        return self.start({"ask": f"{text} (ref {self.reference})"}, **options)

    def ask(self, text: str, **options: Any) -> End:
        """Ask a question, and wait for the end of the run."""
        return self.start_asking(text, **options).end()

    def answer(self, value: Any) -> End:
        """Answer what a run waits for."""
        return self.start({"answer": value}).end()

    def resume(self) -> End:
        """Go on with what there is."""
        return self.start(None).end()

    def approve_all(self, end: End) -> tuple[list[str], End]:
        """Approve whatever is asked, one by one.

        Returns:
            Names of the calls that were approved, and the last end.
        """
        approved = []
        while end.status == "waits":
            assert len(approved) < 5, approved
            (asked,) = end.asked
            approved += [request["name"] for request in asked["action_requests"]]
            end = self.answer({"decisions": [{"type": "approve"}] * len(asked["action_requests"])})
        return approved, end

    @property
    def shop(self) -> dict[str, Any]:
        """The MCP server as a tool of the request."""
        url = f"{self.service.tools}?effects={self.reference}"
        return {
            "type": "mcp",
            "server_label": "shop",
            "server_url": url,
            "require_approval": self.require_approval,
        }

    @property
    def effects(self) -> list[str]:
        """What the tools really did, in order."""
        return _lines(self.service.folder / f"{self.reference}.effects")

    @property
    def functions(self) -> list[str]:
        """What the client's function really did, in order."""
        return _lines(self.folder / f"{self.reference}.functions")

    @property
    def jobs(self) -> list[str]:
        """Ids of the jobs that the service has accepted."""
        if self.service.list_jobs is not None:
            return self.service.list_jobs(self.reference)
        return _lines(self.service.folder / f"{self.reference}.jobs")

    @property
    def gate(self) -> str:
        """Name of a gate of this story."""
        return f"gate-{self.reference}"

    def open_gate(self) -> None:
        """Let whoever waits at the gate go on."""
        (self.service.folder / self.gate).touch()

    def wait_at_gate(self) -> None:
        """Wait until the job has come to the gate, and a run polls it."""
        self.proxy.wait_for(lambda seen: any(exchange.method == "GET" for exchange in seen))
        deadline = time.monotonic() + PATIENCE_S
        while not (self.service.folder / f"{self.gate}.reached").exists():
            assert time.monotonic() < deadline, "the job did not come to its gate"
            time.sleep(0.05)

    def status_at_service(self, job: str) -> str:
        """What the service says of a job of the Responses API."""
        answer = httpx.get(f"{self.service.base_url}/responses/{job}", timeout=30, trust_env=False)
        return str(answer.raise_for_status().json()["status"])


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
