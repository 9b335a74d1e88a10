"""Every pair of what can differ about approvals and functions, against the stand-in of the service over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command
from openai import AsyncOpenAI

from databricks_supervisor import create_supervisor_graph
from databricks_supervisor.items import items_from_message
from tests.e2e.approval_scenario import check_thread, check_told_once, output_of
from tests.e2e.conftest import SEED
from tests.support.local_supervisor_process import RESPONSES, LocalSupervisor

Case = Mapping[str, Any]

FACTORS: dict[str, Sequence[Any]] = {
    "approvals": (0, 1, 2, 3),
    "calls": (0, 1, 2),
    "decisions": ("approve all", "refuse all", "mixed", "in two steps"),
    "echo": ("none", "same_ids", "new_ids", "no_ids"),
    "long_ids": (None, 125),
    "function": ("sync", "async", "failing"),
    "rounds": (1, 2, 3),
    "durability": ("sync", "inherit"),
}
CONNECTION = {"type": "uc_connection", "uc_connection": {"name": "mail"}}
AT_ONCE = 6


def cover(strength: int, chance: random.Random) -> list[Case]:
    """Cases that hold every combination of values of any so many factors at least once.

    Greedy: each case begins with a combination that is missing, and takes for the rest the best of a few
    random fillings.
    """
    missing = {
        frozenset(zip(names, values, strict=True))
        for names in itertools.combinations(FACTORS, strength)
        for values in itertools.product(*(FACTORS[name] for name in names))
    }
    cases: list[Case] = []
    while missing:
        seed = dict(chance.choice(sorted(missing, key=repr)))
        fillings = [{name: chance.choice(FACTORS[name]) for name in FACTORS} | seed for _ in range(40)]
        best = max(fillings, key=lambda filling: len(missing & combinations_in(filling, strength)))
        missing -= combinations_in(best, strength)
        cases.append(best)
    return cases


def combinations_in(case: Case, strength: int) -> set[frozenset[tuple[str, Any]]]:
    return {frozenset(chosen) for chosen in itertools.combinations(case.items(), strength)}


def test_the_covering_array_holds_every_pair() -> None:
    cases = cover(2, random.Random(SEED))
    for one, other in itertools.combinations(FACTORS, 2):
        pairs = {(case[one], case[other]) for case in cases}
        assert pairs == set(itertools.product(FACTORS[one], FACTORS[other]))
    assert len(cases) < 60


async def test_rounds_of_approvals_and_functions_end_with_an_answer_in_every_pair_of_ways(
    service: LocalSupervisor, tmp_path: Path
) -> None:
    await check_all(cover(2, random.Random(SEED)), service, tmp_path)


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_rounds_of_approvals_and_functions_end_with_an_answer_in_every_triple_of_ways(
    service: LocalSupervisor, tmp_path: Path
) -> None:
    await check_all(cover(3, random.Random(SEED)), service, tmp_path)


async def check_all(cases: Iterable[Case], service: LocalSupervisor, folder: Path) -> None:
    """Check the cases, a few at a time.

    Raises:
        ExceptionGroup: What went wrong, each with its case.
    """
    turnstile = asyncio.Semaphore(AT_ONCE)
    errors: list[Exception] = []

    async def check(number: int, case: Case) -> None:
        async with turnstile:
            try:
                await Conversation(case, service, client).check(folder / f"{number}.sqlite")
            except Exception as error:
                error.add_note(f"in the case {case}")
                errors.append(error)

    async with AsyncOpenAI(
        base_url=f"{service.url}{RESPONSES.removesuffix('/responses')}", api_key="x"
    ) as client:
        await asyncio.gather(*(check(number, case) for number, case in enumerate(cases)))
    if errors:
        raise ExceptionGroup(f"{len(errors)} cases failed", errors)


class Conversation:
    """One case: a question, the rounds that it takes, and what must have happened."""

    def __init__(self, case: Case, service: LocalSupervisor, client: AsyncOpenAI) -> None:
        self.case = case
        self.service = service
        self.client = client
        self.name = f"question-{uuid.uuid4().hex[:12]}"
        self.ran: list[str] = []
        self.given: dict[str, bool] = {}

    async def check(self, file: Path) -> None:
        async with AsyncSqliteSaver.from_conn_string(str(file)) as saver:
            graph = create_supervisor_graph(
                model="databricks-claude-sonnet-4-5",
                tools=[CONNECTION, self.function()],
                polling=0.05,
                client_factory=lambda identity: self.client,
            ).compile(checkpointer=saver, durability=self.case["durability"])
            config: Any = {"configurable": {"thread_id": self.name}}
            state = await graph.ainvoke({"messages": [{"role": "user", "content": self.question()}]}, config)
            while "__interrupt__" in state:
                (asked,) = state["__interrupt__"]
                assert asked.value["kind"] == "mcp_approval"
                assert "error" not in asked.value
                state = await graph.ainvoke(Command(resume=self.answer(asked.value["ids"])), config)
        await asyncio.to_thread(self.check_end, state["messages"])

    def question(self) -> str:
        asks = {
            "approvals": [
                {"name": f"send{n}", "server_label": "mail", "arguments": {"n": n}}
                for n in range(self.case["approvals"])
            ],
            "calls": [{"name": "note", "arguments": {"text": f"text{n}"}} for n in range(self.case["calls"])],
        }
        behaviour = {
            **asks,
            "rounds": [asks] * (self.case["rounds"] - 1),
            "echo": self.case["echo"],
            "long_ids": self.case["long_ids"],
            "long_call_ids": self.case["long_ids"],
            "duration_s": 0.1,
        }
        return f"Please answer {self.name}. [[local: {json.dumps(behaviour)}]]"

    def function(self) -> BaseTool:
        def note(text: str) -> str:
            """Write a text."""
            self.ran.append(text)
            return f"wrote {text}"

        async def note_async(text: str) -> str:
            """Write a text."""
            await asyncio.sleep(0)
            return note(text)

        def note_failing(text: str) -> str:
            """Write a text."""
            raise ValueError(f"{note(text)}, and failed")

        match self.case["function"]:
            case "sync":
                return StructuredTool.from_function(note)
            case "async":
                return StructuredTool.from_function(coroutine=note_async, name="note")
            case _:
                return StructuredTool.from_function(note_failing, name="note")

    def answer(self, ids: list[str]) -> dict[str, Any]:
        """What a person says to what is pending: in order, or for the first of them alone, by id."""
        match self.case["decisions"]:
            case "approve all":
                said = dict.fromkeys(ids, True)
            case "refuse all":
                said = dict.fromkeys(ids, False)
            case "mixed":
                said = {id: number % 2 == 0 for number, id in enumerate(ids)}
            case _:
                new = ids[-1:] if len(ids) == self.case["approvals"] else ids
                said = {id: len(ids) > 1 for id in new}
        assert not said.keys() & self.given.keys()
        self.given |= said
        forms = [{"type": "approve"} if yes else {"type": "reject", "message": "no"} for yes in said.values()]
        if len(said) == len(ids):
            return {"decisions": forms}
        return dict(zip(said, forms, strict=True))

    def check_end(self, messages: list[Any]) -> None:
        case = self.case
        found = self.service.submissions(self.name)["jobs"]
        jobs = {job["round"]: self.service.job(job["id"]) for job in found}
        assert len(found) == len(jobs) == 1 + (case["rounds"] if case["approvals"] + case["calls"] else 0)
        assert len(self.given) == case["rounds"] * case["approvals"]
        assert Counter(self.ran) == {f"text{n}": case["rounds"] for n in range(case["calls"])}
        check_told_once(jobs, self.given)
        outputs = {number: output_of(self.service, job["id"]) for number, job in jobs.items()}
        shown = [{"id": message.id, "items": items_from_message(message)} for message in messages]
        check_thread(shown, outputs, jobs)
        assert messages[-1].type == "ai"
        assert messages[-1].text
