"""What survives when processes die, the processes that use it, and what was seen of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command

from databricks_supervisor import create_supervisor_graph, uc_connection
from databricks_supervisor.items.history import question_digest
from databricks_supervisor.ledger import Effect, Ledger, NewTurn, Turn
from databricks_supervisor.run import Time
from local_supervisor.jobs import JobStore
from local_supervisor.server import create_app
from local_supervisor.tool_runs import ToolRunner
from tests.support.simulation.invariants import OWN_MESSAGE, Invariants, own_items
from tests.support.simulation.killable_process import (
    CURRENT,
    GatedLedger,
    GatedSaver,
    GatedTransport,
    Process,
    Verdict,
)
from tests.support.simulation.records import (
    CONFIG,
    NEVER_ASKED,
    Given,
    GraphRun,
    Policies,
    Post,
    Shown,
    note,
    stumble,
)
from tests.support.simulation.virtual_loop import VirtualLoop


@dataclass
class World:
    """Checkpoints, ledger and service; the processes that use them; and what was seen of it."""

    loop: VirtualLoop
    saver: BaseCheckpointSaver[Any]
    ledger: Ledger
    store: JobStore
    policies: Policies
    processes: dict[str, Process] = field(default_factory=dict)
    graphs: dict[tuple[Process, str], Any] = field(default_factory=dict)
    runs: list[GraphRun] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    cancels: int = 0
    function_runs: Counter[str] = field(default_factory=Counter)
    opened: list[NewTurn] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    given: list[Given] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    recorded: dict[Any, dict[str, Any]] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    paused: bool = False
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = create_app(self.store, ToolRunner(self.store))
        self.invariants = Invariants(self)
        self.peek: Any = create_supervisor_graph(model="m").compile(checkpointer=self.saver)

    # -- processes and their runs

    def live(self) -> list[Process]:
        """Processes that live, oldest first."""
        return [process for process in self.processes.values() if not process.dead]

    def busy(self) -> list[GraphRun]:
        """Runs that have not ended, oldest first."""
        return [run for run in self.runs if run.alive]

    def start_process(self, *, far: bool = False) -> Process:
        """A new process."""
        process = Process(f"process-{len(self.processes) + 1}", self._ran, far=far)
        self.processes[process.name] = process
        return process

    def is_dead(self, worker: str) -> bool:
        """What the library can find out about another process."""
        process = self.processes[worker]
        return process.dead and not process.far

    def graph(self, process: Process, on_busy: str) -> Any:
        """The compiled graph, as that process builds it."""

        async def client(_identity: str | None) -> openai.AsyncOpenAI:
            transport = GatedTransport(process, self.app, self._sent)
            return openai.AsyncOpenAI(
                base_url="http://service/ai-gateway/mlflow/v1",
                api_key="x",
                http_client=httpx2.AsyncClient(transport=transport),
            )

        settings: dict[str, Any] = {
            "on_unknown_submission": self.policies.on_unknown,
            "on_failure": self.policies.on_failure,
            "on_busy": on_busy,
        }
        built = create_supervisor_graph(
            model="m",
            tools=[uc_connection("web"), note, stumble],
            require_approval={"never": {"tool_names": [NEVER_ASKED]}},
            client_factory=client,
            ledger=GatedLedger(process, self.ledger, self._turn_opened),
            polling=1.0,
            deadline_s=1e9,
            create_timeout_s=5.0,
            call_lifetime_s=10.0,
            max_rounds=8,
            time=Time(self.loop.time, asyncio.sleep, lambda: 0.5),
            **settings,
        )
        durability: Any = self.policies.durability
        return built.compile(checkpointer=GatedSaver(process, self.saver), durability=durability)

    async def start_run(self, what: str, process: Process, input: Any, **facts: Any) -> GraphRun:
        """Begin a run, up to its first gate."""
        facts["nothing_on_disk"] = await self.saver.aget_tuple(CONFIG) is None
        on_busy = facts.get("on_busy", "reject")
        graph = self.graphs.get((process, on_busy)) or self.graph(process, on_busy)
        self.graphs[process, on_busy] = graph
        context = copy_context()
        context.run(CURRENT.set, process)
        task = self.loop.create_task(graph.ainvoke(input, CONFIG), context=context)
        task.add_done_callback(_take_note)
        run = GraphRun(what, process, task, **facts)
        others = self.busy()
        self.runs.append(run)
        if others:
            for other in [*others, run]:
                other.overlapped = True
        await self.loop.quiet()
        return run

    async def ask(self, process: Process, text: str, on_busy: str) -> GraphRun:
        """A process is asked a question."""
        question = {"messages": [{"role": "user", "content": text}]}
        self.texts[question_digest([HumanMessage(text)])] = text
        return await self.start_run("ask", process, question, text=text, on_busy=on_busy)

    async def advance(self, process: Process, times: int, *, newest: bool = False) -> int:
        """Let a process do so many things; how many it did."""
        for number in range(times):
            await self.loop.quiet()
            while not process.waiting and not process.dead and self._has_runs(process):
                process.let_go()
                await self.loop.quiet()
                if process.waiting or not self._has_runs(process):
                    break
                assert await self.loop.jump(), f"{process.name} waits for something that never comes"
            if not process.waiting:
                return number
            process.release(newest=newest)
        await self.loop.quiet()
        return times

    def _has_runs(self, process: Process) -> bool:
        return any(run.process is process for run in self.busy())

    async def pause(self, seconds: float) -> None:
        """Let time pass, in which processes that wait at their gates do nothing."""
        self.paused = True
        await self.loop.forward(seconds)

    async def lose(self, process: Process, verdict: Verdict) -> None:
        """Let the next thing that a process does, a request, go wrong."""
        kind = process.release(verdict)
        self.faults[f"{kind} {verdict.name}"] += 1
        await self.loop.quiet()

    async def kill(self, process: Process) -> None:
        """As ``kill -9``."""
        process.kill()
        await self.loop.quiet()
        for run in self.busy():
            if run.process is process:
                run.task.cancel()
        await self.loop.quiet()

    async def cancel(self, run: GraphRun, *, after: bool) -> None:
        """Cancel a run; ``after`` the next thing that its process does took effect, before its answer came."""
        process = run.process
        if after and process.waiting:
            process.release(Verdict.HOLD)
            await self.loop.quiet()
        run.cancelled = True
        run.task.cancel()
        await self.loop.quiet()
        process.let_go()
        await self.loop.quiet()

    # -- what was seen

    def _ran(self, call_id: str) -> None:
        self.function_runs[call_id] += 1

    def _sent(self, kind: str, request: Any, answer: httpx2.Response | None) -> None:
        if kind == "cancel":
            self.cancels += 1
        if kind != "post":
            return
        turn_id, round_, attempt = request.headers["idempotency-key"].rsplit("-", 2)
        body = json.loads(request.content)
        created = answer.json()["id"] if answer is not None and answer.status_code == 200 else None
        if answer is not None and answer.status_code != 200:
            self.wrong.append(f"the service refused a request: {answer.text} {body['input']}")
        decisions = {
            item["approval_request_id"]: (item["approve"], item.get("reason"))
            for item in body["input"]
            if item.get("type") == "mcp_approval_response"
        }
        questions = tuple(_text(item) for item in body["input"] if item.get("role") == "user")
        self.posts.append(Post(turn_id, int(round_), int(attempt), questions, decisions, created))

    async def _turn_opened(self, turn: NewTurn) -> None:
        """A turn is opened: it must not be one that was under way, or whose end nobody has."""
        if self.opened:
            last = await self.ledger.get_turn(self.opened[-1].turn_id)
            assert last is not None
            job = (await self.values()).get("job") or {}
            has_end = job.get("turn_id") == last.turn_id and job.get("ended")
            submitted = any(post.turn_id == last.turn_id for post in self.posts)
            alone = len(self.busy()) == 1  # Who asks decides by what it has read; others may act meanwhile.
            if last.digest == turn.digest and submitted and not has_end and alone:
                self.wrong.append(f"{turn} was opened, and the end of {last} did not reach its caller")
        self.opened.append(turn)

    async def values(self) -> dict[str, Any]:
        """The thread's state, its input included."""
        saved = await self.saver.aget_tuple(CONFIG)
        if saved is None:
            return {}
        values = dict(saved.checkpoint["channel_values"])
        given = values.pop("__start__", None) or {}
        if given.get("job"):
            values["job"] = given["job"]
            kept = values.get("messages", [])
            ids = {message.id for message in kept}
            values["messages"] = [*kept, *(message for message in given["messages"] if message.id not in ids)]
        return values

    async def turns(self) -> list[Turn]:
        """The turns so far."""
        found = [await self.ledger.get_turn(turn.turn_id) for turn in self.opened]
        return [turn for turn in found if turn is not None]

    async def effects(self) -> list[Effect]:
        """The effects so far."""
        return [effect for turn in self.opened for effect in await self.ledger.effects(turn.turn_id)]

    async def look(self) -> Shown | None:
        """The question that the thread waits with, as a person sees it now."""
        state = await self.peek.aget_state(CONFIG)
        if not state.interrupts:
            return None
        job = state.values["job"]
        shown = Shown(state.interrupts[0], job["turn_id"], job["round"])
        if all(shown.interrupt.id != other.interrupt.id for other in self.shown):
            self.shown.append(shown)
        apart = not self.paused and not any(run.overlapped for run in self.runs)
        sound = apart and not self.faults and not any(process.dead for process in self.processes.values())
        assert not (sound and shown.kind != "mcp_approval"), f"{shown}: and nothing was lost"
        return shown

    # -- the end

    async def finish(self) -> None:
        """Everything must end, or wait for a person, who is there now; and the thread must go on after it."""
        for _ in range(400):
            if not (busy := self.busy()):
                break
            for process in {run.process: None for run in busy}:
                await self.advance(process, 20)
        assert not self.busy(), f"never ends: {[(d.what, d.process.done[-20:]) for d in self.busy()]}"
        await self.invariants.check()
        process = self.start_process()
        for _ in range(40):
            shown = await self.look()
            job = (await self.values()).get("job") or {}
            turn = next(reversed(await self.turns()), None)
            if turn is None:
                break
            if shown is not None and turn.ended_at is None and job["turn_id"] == turn.turn_id:
                run = await self.answer(
                    process, shown, dict.fromkeys(shown.ids, shown.kind != "mcp_approval")
                )
            elif turn.ended_at is not None:
                break
            elif job.get("turn_id") == turn.turn_id:
                run = await self.start_run("resume", process, None)
            else:
                run = await self.ask(process, self.texts[turn.digest], "reject")
            await self.complete(run)
        else:
            raise AssertionError(f"the turn does not end: {job}")
        last = await self.ask(
            process, 'the last one [[local: {"polls_to_finish": 1, "reply": "the end"}]]', "reject"
        )
        await self.complete(last)
        messages = last.task.result()["messages"]
        assert messages[-1].text == "the end", messages
        for job in self.store.all():
            kept = [
                m for m in messages if (m.id or "").startswith(f"{job.id}:") and OWN_MESSAGE.match(m.id or "")
            ]
            if job.id == messages[-1].id.split(":")[0]:
                assert len(kept) == len(own_items(job))

    async def complete(self, run: GraphRun) -> None:
        """Let a run go to its end."""
        for turns in range(100):
            if not run.alive:
                break
            # It may wait for something that another one has begun.
            for process in self.live() if turns > 9 else [run.process]:
                await self.advance(process, 20)
        assert not run.alive, f"{run.what} never ends: {run.process.done[-30:]}"
        await self.invariants.check()

    async def answer(self, process: Process, shown: Shown, answer: Any, **facts: Any) -> GraphRun:
        """A person answers."""
        decisions = facts.pop("decisions", answer)
        given = Given(shown, decisions, facts.pop("by_position", ()))
        self.given.append(given)
        return await self.start_run("answer", process, Command(resume=answer), given=given, **facts)

    async def dispose(self) -> None:
        """Nothing of it acts any more."""
        for process in self.live():
            await self.kill(process)
        await self.loop.forward(100.0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await self.loop.quiet()


def _take_note(task: asyncio.Task[Any]) -> None:
    """Ask a task for its exception: asyncio prints one that nobody asks for, and the dead are not asked."""
    if not task.cancelled():
        task.exception()


def _text(item: dict[str, Any]) -> str:
    content = item["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
