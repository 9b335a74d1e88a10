"""A machine that does to the graph whatever can be done to it, and looks after each step.

Processes ask, resume, answer, are cancelled and killed at any moment, at once and one after the other; requests
get lost. ``MACHINE_SEED`` repeats a run; ``-m full`` runs 100,000 steps.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from langgraph.checkpoint.memory import InMemorySaver

from databricks_supervisor.ledger import MemoryLedger
from databricks_supervisor.ledger import run_once as effects
from local_supervisor.jobs import JobStore
from tests.support.simulation.killable_process import CURRENT, Process, Verdict
from tests.support.simulation.records import NEVER_ASKED, GraphRun, Policies, Shown
from tests.support.simulation.virtual_loop import VirtualLoop
from tests.support.simulation.world import World

STEPS = 50
MOST_PROCESSES = 3
MOST_RUNS = 4

index = st.integers(0, 3)
policies = st.builds(
    Policies,
    on_unknown=st.sampled_from(["ask", "ask", "ask", "resubmit", "fail"]),
    on_failure=st.sampled_from(["raise", "raise", "message"]),
    durability=st.sampled_from(["sync", "inherit"]),
)
on_busy = st.sampled_from(["reject", "reject", "cancel", "wait"])
calls = st.lists(st.sampled_from(["note", "note", "stumble"]), min_size=1, max_size=2)
approvals = st.lists(st.sampled_from(["publish", "publish", NEVER_ASKED]), min_size=1, max_size=2)
responses = st.fixed_dictionaries({"approvals": approvals}, optional={"reply": st.just("Let me see.")})
responses |= st.fixed_dictionaries({"calls": calls}, optional={"reply": st.just("Let me see.")})
responses |= st.fixed_dictionaries({"calls": calls, "approvals": approvals})
forms = st.fixed_dictionaries(
    {
        "polls_to_finish": st.integers(1, 3),
        "echo": st.sampled_from(["none", "same_ids", "new_ids", "no_ids"]),
    },
    optional={
        "unfinished": st.just(True),
        "out_of_order": st.just(True),
        "null_output": st.just(True),
        "instant": st.just(True),
        "cancel": st.just(501),
    },
)
ends = st.sampled_from(["completed"] * 8 + ["failed", "incomplete"])
plans = st.tuples(forms, st.lists(responses, min_size=0, max_size=3), ends)
steps_of = st.sampled_from([1, 1, 2, 3, 5, 8, 13, 30])
moments = st.sampled_from(
    ["post", "claim", "record", "put", "put_writes", "function", "end_turn", "open_turn"]
)
malformed = st.sampled_from(
    [
        "yes",
        1,
        [],
        {},
        [True],
        {"decisions": []},
        {"decisions": [True] * 9},
        {"other": True},
        {"decisions": "approve"},
    ]
)


class Machine(RuleBasedStateMachine):
    """One thread, the processes that work on it, and the people who use it."""

    stores = "memory"
    directory: Path
    totals: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.world: World
        self.asked: list[str] = []
        self.number = 0
        self.store = _store(self.directory)
        self.pending: Shown | None = None

    # -- how it begins and ends

    @initialize(policies=policies)
    def begin(self, policies: Policies) -> None:
        saver, ledger = self._stores()
        self.world = World(self.loop, saver, ledger, self.store, policies)
        _worlds.append(self.world)

    def _stores(self) -> Any:
        return InMemorySaver(), MemoryLedger(clock=self.loop.time)

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                try:
                    if sys.exc_info()[0] is None:
                        self.do(self.world.finish())
                finally:
                    self.totals.update({f"end: {name}": n for name, n in self.world.ends.items()})
                    self.totals.update({f"fault: {name}": n for name, n in self.world.faults.items()})
                    self.totals["posts"] += len(self.world.posts)
                    self.totals["turns"] += len(self.world.opened)
                    self.totals["runs of functions"] += self.world.function_runs.total()
                    self.totals["decisions"] += len(self.world.recorded)
                    self.totals["examples"] += 1
                    self.do(self.world.dispose())
        finally:
            _worlds.clear()
            self.store.reset()
            self.loop.close()

    @invariant()
    def holds(self) -> None:
        self.totals["steps"] += 1
        if hasattr(self, "world"):
            self.do(self.world.invariants.check())
            self.pending = self.do(self.world.look())

    # -- people

    def process(self, number: int, *, far: bool = False) -> Process:
        """A process: one that lives, or a new one."""
        live = self.world.live()
        if number < len(live) and len(live) > 0:
            return live[number]
        return self.world.start_process(far=far) if len(live) < MOST_PROCESSES else live[-1]

    def may_start(self) -> bool:
        return len(self.world.busy()) < MOST_RUNS

    @precondition(may_start)
    @rule(number=index, plan=plans, on_busy=on_busy, far=st.booleans())
    def ask(self, number: int, plan: Any, on_busy: str, far: bool) -> None:
        self.number += 1
        self.asked.append(_question(self.number, *plan))
        self.do(self.world.ask(self.process(number, far=far), self.asked[-1], on_busy))

    @precondition(lambda self: self.asked and self.may_start())
    @rule(number=index, which=st.integers(0, 1), on_busy=on_busy)
    def ask_again(self, number: int, which: int, on_busy: str) -> None:
        text = self.asked[-1 - which % len(self.asked)]
        self.do(self.world.ask(self.process(number), text, on_busy))

    @precondition(lambda self: self.asked and self.may_start())
    @rule(number=index)
    def resume(self, number: int) -> None:
        self.do(self.world.start_run("resume", self.process(number), None))

    @precondition(lambda self: self.pending and self.may_start())
    @rule(
        number=index,
        say=st.lists(st.booleans(), min_size=2, max_size=2),
        form=st.sampled_from(["plain", "typed", "partial", "decisions", "bare"]),
        by_interrupt=st.booleans(),
        to_the_end=st.booleans(),
    )
    def answer(self, number: int, say: list[bool], form: str, by_interrupt: bool, to_the_end: bool) -> None:
        shown = self.pending
        assert shown is not None
        decisions = dict(zip(shown.ids, say, strict=False))
        answer: Any = decisions
        if form == "typed":
            answer = {id: {"type": "approve" if yes else "reject"} for id, yes in decisions.items()}
        elif form == "partial":
            answer = decisions = dict(list(decisions.items())[:1])
        elif form == "decisions":
            answer = {"decisions": [{"type": "approve" if yes else "reject"} for yes in decisions.values()]}
        elif form == "bare" and len(decisions) == 1:
            answer = say[0]
        named = by_interrupt or form not in ("decisions", "bare")
        by_position = () if named else tuple(decisions.values())
        if by_interrupt:
            answer = {shown.interrupt.id: answer}
        self._answered(number, shown, answer, decisions, by_position, fresh=True, to_the_end=to_the_end)

    @precondition(lambda self: self.pending and self.may_start())
    @rule(say=st.lists(st.booleans(), min_size=2, max_size=2), turns=st.lists(st.integers(1, 6), max_size=12))
    def answer_at_once(self, say: list[bool], turns: list[int]) -> None:
        """Two people answer at the same time, and not the same."""
        shown = self.pending
        assert shown is not None
        runs = []
        for values in (say, [not value for value in say]):
            decisions = dict(zip(shown.ids, values, strict=False))
            runs.append(self.do(self.world.answer(self.world.start_process(), shown, decisions)))
        for number, times in enumerate(turns):
            self.do(self.world.advance(runs[number % 2].process, times))
        for run in runs:
            self.do(self.world.complete(run))

    @precondition(lambda self: self.world.shown and self.may_start())
    @rule(
        number=index, which=st.integers(0, 5), yes=st.booleans(), form=st.sampled_from(["ids", "bare", "map"])
    )
    def answer_late(self, number: int, which: int, yes: bool, form: str) -> None:
        """An answer to a question that may be long settled."""
        shown = self.world.shown[which % len(self.world.shown)]
        decisions = dict.fromkeys(shown.ids, yes)
        now = self.pending
        answer: Any = {"ids": decisions, "map": {shown.interrupt.id: decisions}, "bare": yes}[form]
        if form == "bare" and now is not None:  # It names nothing: it is an answer to what is pending.
            shown, decisions = now, dict.fromkeys(now.ids, yes) if len(now.ids) == 1 else {}
        self._answered(number, shown, answer, decisions, by_position=(yes,) if form == "bare" else ())

    @precondition(lambda self: self.pending and self.may_start())
    @rule(number=index, answer=malformed)
    def answer_nonsense(self, number: int, answer: Any) -> None:
        assert self.pending is not None
        self._answered(number, self.pending, answer, {})

    def _answered(
        self,
        number: int,
        shown: Shown,
        answer: Any,
        decisions: dict[str, bool],
        by_position: tuple[bool, ...] = (),
        *,
        fresh: bool = False,
        to_the_end: bool = False,
    ) -> None:
        run: GraphRun = self.do(
            self.world.answer(
                self.process(number), shown, answer, decisions=decisions, by_position=by_position, fresh=fresh
            )
        )
        if to_the_end:
            self.do(self.world.complete(run))

    # -- time, and what happens in it

    def busy(self) -> bool:
        return bool(self.world.busy())

    def a_run(self, number: int) -> GraphRun:
        runs = self.world.busy()
        return runs[number % len(runs)]

    @precondition(busy)
    @rule(number=index, times=steps_of, newest=st.booleans())
    def advance(self, number: int, times: int, newest: bool) -> None:
        self.do(self.world.advance(self.a_run(number).process, times, newest=newest))

    @precondition(busy)
    @rule(number=index, moment=moments, more=st.integers(0, 2))
    def advance_until(self, number: int, moment: str, more: int) -> None:
        """Up to an effect of that kind, or just past it."""
        process = self.a_run(number).process
        for _ in range(60):
            if any(operation.kind == moment for operation in process.waiting):
                break
            if not self.do(self.world.advance(process, 1)):
                break
        self.do(self.world.advance(process, more))

    @precondition(busy)
    @rule(number=index)
    def advance_to_the_end(self, number: int) -> None:
        self.do(self.world.complete(self.a_run(number)))

    @precondition(busy)
    @rule(seconds=st.sampled_from([1.0, 12.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.world.pause(seconds))

    # -- what goes wrong

    @precondition(busy)
    @rule(number=index)
    def kill(self, number: int) -> None:
        self.totals["kills"] += 1
        self.do(self.world.kill(self.a_run(number).process))

    @precondition(busy)
    @rule(number=index, after=st.booleans())
    def cancel(self, number: int, after: bool) -> None:
        run = self.a_run(number)
        self.totals["cancellations"] += 1
        self.do(self.world.cancel(run, after=after))

    @precondition(busy)
    @rule(
        number=index,
        moment=moments,
        more=st.integers(0, 2),
        then=st.sampled_from(["ask", "ask", "resume", "wait"]),
    )
    def kill_at(self, number: int, moment: str, more: int, then: str) -> None:
        """Kill a process around an effect of that kind; another one goes on."""
        run = self.a_run(number)
        self.advance_until(number, moment, more)
        self.totals["kills"] += 1
        self.do(self.world.kill(run.process))
        if then == "ask":
            self.run_to_the_end(
                self.world.ask(self.world.start_process(), run.text or self.asked[-1], "wait")
            )
        elif then == "resume":
            self.run_to_the_end(self.world.start_run("resume", self.world.start_process(), None))

    @precondition(busy)
    @rule(number=index, moment=moments, after=st.booleans())
    def cancel_at(self, number: int, moment: str, after: bool) -> None:
        """Cancel a run in front of an effect of that kind, or between the effect and its answer."""
        run = self.a_run(number)
        self.advance_until(number, moment, 0)
        if run.alive:
            self.totals["cancellations"] += 1
            self.do(self.world.cancel(run, after=after))
            self.run_to_the_end(self.world.start_run("resume", self.world.start_process(), None))

    def run_to_the_end(self, started: Any) -> None:
        self.do(self.world.complete(self.do(started)))

    def requests(self) -> list[Process]:
        return [
            p for p in self.world.live() if p.waiting and p.waiting[0].kind in ("post", "retrieve", "cancel")
        ]

    @precondition(lambda self: self.requests())
    @rule(number=index, verdict=st.sampled_from(list(Verdict)[2:]))
    def lose(self, number: int, verdict: Verdict) -> None:
        requests = self.requests()
        self.do(self.world.lose(requests[number % len(requests)], verdict))


_worlds: list[World] = []


@pytest.fixture(autouse=True)
def mortality(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which process acts, and which are known to be dead."""
    monkeypatch.setattr(effects, "this_worker", lambda: CURRENT.get().name)
    monkeypatch.setattr(effects, "is_dead", lambda worker: _worlds[-1].is_dead(worker))


@pytest.mark.parametrize(
    "examples",
    [
        pytest.param(25, id="sample"),
        pytest.param(2000, id="full", marks=[pytest.mark.full, pytest.mark.timeout(7200)]),
    ],
)
def test_nothing_is_lost_and_nothing_happens_twice(examples: int, tmp_path: Path) -> None:
    number = int(os.environ.get("MACHINE_SEED") or random.SystemRandom().randrange(2**32))
    totals: Counter[str] = Counter()
    sys.stdout.write(f"MACHINE_SEED={number}\n")
    try:
        run_state_machine_as_test(
            seed(number)(type("Run", (Machine,), {"directory": tmp_path, "totals": totals})),
            settings=settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        sys.stdout.write("\n".join(f"{count:7} {name}" for name, count in sorted(totals.items())) + "\n")


_stores: dict[Path, JobStore] = {}


def _store(directory: Path) -> JobStore:
    if directory not in _stores:
        _stores[directory] = JobStore(directory)
    return _stores[directory]


def _question(number: int, form: dict[str, Any], rounds: list[dict[str, Any]], end: str) -> str:
    responses = []
    for round_, response in enumerate([*rounds, {"reply": f"The answer to {number}."}]):
        calls = [
            {"name": name, "arguments": {"text": f"{number}-{round_}-{n}"}}
            for n, name in enumerate(response.get("calls", []))
        ]
        approvals = [{"name": name, "server_label": "web"} for name in response.get("approvals", [])]
        if calls or approvals or round_ == len(rounds):
            responses.append({**response, "calls": calls, "approvals": approvals})
    responses[-1]["final_status"] = end
    first, *others = responses
    return f"q{number} [[local: {json.dumps({**form, **first, 'rounds': others})}]]"
