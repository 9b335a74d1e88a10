"""What survives when processes die, what they did to it, and the rules that must hold whatever they did."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, defaultdict
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx2
import openai
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command, Interrupt

from databricks_supervisor import create_supervisor_graph, errors, uc_connection
from databricks_supervisor.approvals.decisions import REPLACED
from databricks_supervisor.errors import SupervisorError
from databricks_supervisor.items import items_from_message
from databricks_supervisor.items.history import question_digest
from databricks_supervisor.ledger import Effect, Ledger, NewTurn, Turn
from databricks_supervisor.run import Time
from local_supervisor import conversation
from local_supervisor.jobs import Job, JobStore
from local_supervisor.server import create_app
from local_supervisor.tool_runs import ToolRunner
from tests.support.simulation.killable_process import (
    CURRENT,
    GatedLedger,
    GatedSaver,
    GatedTransport,
    Process,
    Verdict,
)
from tests.support.simulation.virtual_loop import VirtualLoop

__all__ = ["Driver", "Post", "Shown", "World"]

CONFIG: Any = {"configurable": {"thread_id": "thread"}}
NEVER_ASKED = "lookup"
"""The hosted tool that the policy approves without asking a person."""


_OWN = re.compile(r"^(resp_\w+):(\d+)$")


@tool
async def note(text: str, call_id: Annotated[str, InjectedToolCallId]) -> str:
    """Write something down."""
    await CURRENT.get().run(call_id)
    return f"noted {text}"


@tool
async def stumble(text: str, call_id: Annotated[str, InjectedToolCallId]) -> str:
    """Write something down, and fail."""
    await CURRENT.get().run(call_id)
    raise ValueError(text)


@dataclass(frozen=True)
class Post:
    """A create request that was, or may have been, sent."""

    turn_id: str
    round: int
    attempt: int
    questions: tuple[str, ...]
    decisions: dict[str, tuple[bool, str | None]]
    response_id: str | None


@dataclass(frozen=True)
class Shown:
    """An interrupt, as a person saw it."""

    interrupt: Interrupt
    turn_id: str
    round: int

    @property
    def kind(self) -> str:
        kind: str = self.interrupt.value["kind"]
        return kind

    @property
    def ids(self) -> list[str]:
        ids: list[str] = self.interrupt.value["ids"]
        return ids


@dataclass(frozen=True)
class Given:
    """An answer of a person: what it says about which question.

    Attributes:
        shown: The question that it answers.
        decisions: What it says, by id; empty if it says nothing that may be acted on.
        by_position: What it says of whatever is pending when it arrives, if it names no ids.
    """

    shown: Shown
    decisions: dict[str, bool]
    by_position: tuple[bool, ...] = ()


@dataclass(eq=False)
class Driver:
    """One run of the graph, by one process.

    Attributes:
        what: ``ask``, ``resume`` or ``answer``.
        text: The question's text.
        given: The answer.
        nothing_on_disk: Whether its thread had no checkpoint when it began.
        fresh: Whether the answer is to what was pending when it was given.
        overlapped: Whether another driver was alive at the same time.
    """

    what: str
    process: Process
    task: asyncio.Task[Any]
    text: str = ""
    on_busy: str = "reject"
    given: Given | None = None
    nothing_on_disk: bool = False
    fresh: bool = False
    overlapped: bool = False
    cancelled: bool = False
    judged: bool = False

    @property
    def alive(self) -> bool:
        return not self.task.done()

    @property
    def rejected(self) -> bool:
        return (
            not self.alive
            and not self.task.cancelled()
            and isinstance(self.task.exception(), errors.ThreadBusyError)
        )


@dataclass
class Policies:
    """Settings that all processes share."""

    on_unknown: str = "ask"
    on_failure: str = "raise"
    durability: str = "sync"


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
    drivers: list[Driver] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    cancels: int = 0
    runs: Counter[str] = field(default_factory=Counter)
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
        self.peek: Any = create_supervisor_graph(model="m").compile(checkpointer=self.saver)

    # -- processes and their runs

    def live(self) -> list[Process]:
        """Processes that live, oldest first."""
        return [process for process in self.processes.values() if not process.dead]

    def busy(self) -> list[Driver]:
        """Drivers that have not ended, oldest first."""
        return [driver for driver in self.drivers if driver.alive]

    def start(self, *, far: bool = False) -> Process:
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

    async def drive(self, what: str, process: Process, input: Any, **facts: Any) -> Driver:
        """Begin a run, up to its first gate."""
        facts["nothing_on_disk"] = await self.saver.aget_tuple(CONFIG) is None
        on_busy = facts.get("on_busy", "reject")
        graph = self.graphs.get((process, on_busy)) or self.graph(process, on_busy)
        self.graphs[process, on_busy] = graph
        context = copy_context()
        context.run(CURRENT.set, process)
        task = self.loop.create_task(graph.ainvoke(input, CONFIG), context=context)
        driver = Driver(what, process, task, **facts)
        others = self.busy()
        self.drivers.append(driver)
        if others:
            for other in [*others, driver]:
                other.overlapped = True
        await self.loop.quiet()
        return driver

    async def ask(self, process: Process, text: str, on_busy: str) -> Driver:
        """A process is asked a question."""
        question = {"messages": [{"role": "user", "content": text}]}
        self.texts[question_digest([HumanMessage(text)])] = text
        return await self.drive("ask", process, question, text=text, on_busy=on_busy)

    async def advance(self, process: Process, times: int, *, newest: bool = False) -> int:
        """Let a process do so many things; how many it did."""
        for number in range(times):
            await self.loop.quiet()
            while not process.waiting and not process.dead and self._drives(process):
                process.let_go()
                await self.loop.quiet()
                if process.waiting or not self._drives(process):
                    break
                assert await self.loop.jump(), f"{process.name} waits for something that never comes"
            if not process.waiting:
                return number
            process.release(newest=newest)
        await self.loop.quiet()
        return times

    def _drives(self, process: Process) -> bool:
        return any(driver.process is process for driver in self.busy())

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
        for driver in self.busy():
            if driver.process is process:
                driver.task.cancel()
        await self.loop.quiet()

    async def cancel(self, driver: Driver, *, after: bool) -> None:
        """Cancel a run; ``after`` the next thing that its process does took effect, before its answer came."""
        process = driver.process
        if after and process.waiting:
            process.release(Verdict.HOLD)
            await self.loop.quiet()
        driver.cancelled = True
        driver.task.cancel()
        await self.loop.quiet()
        process.let_go()
        await self.loop.quiet()

    # -- what was seen

    def _ran(self, call_id: str) -> None:
        self.runs[call_id] += 1

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
        apart = not self.paused and not any(driver.overlapped for driver in self.drivers)
        sound = apart and not self.faults and not any(process.dead for process in self.processes.values())
        assert not (sound and shown.kind != "mcp_approval"), f"{shown}: and nothing was lost"
        return shown

    # -- the rules

    async def check(self) -> None:
        """Raise AssertionError if anything happened that must not."""
        assert not self.wrong, self.wrong
        self._check_posts()
        self._check_runs()
        await self._check_decisions()
        self._check_state(await self.values())
        for driver in self.drivers:
            if not driver.alive and not driver.judged:
                driver.judged = True
                await self._judge(driver)

    def _loose(self) -> list[bool]:
        """Answers by position that may have met another question, because somebody else answered meanwhile."""
        answers = [d.given for d in self.drivers if d.given is not None and d.overlapped]
        return [value for given in answers for value in given.by_position]

    def _check_posts(self) -> None:
        sent = Counter((post.turn_id, post.round) for post in self.posts)
        for key, count in sent.items():
            allowed = {
                id
                for given in self.given
                if given.shown.kind == "repeat_submission" and (given.shown.turn_id, given.shown.round) == key
                for id, approved in given.decisions.items()
                if approved
            }
            more = 2 if self.policies.on_unknown == "resubmit" else len(allowed) + sum(self._loose())
            assert count <= 1 + more, f"{key} was posted {count} times, and {more} repeats were allowed"
        jobs = Counter(post.response_id for post in self.posts if post.response_id is not None)
        assert set(jobs.values()) <= {1}
        assert set(jobs) == {job.id for job in self.store.all()}

    def _check_runs(self) -> None:
        if self.policies.on_unknown == "resubmit":
            return
        for call_id, count in self.runs.items():
            allowed = sum(
                given.shown.kind == "repeat_call" and given.decisions.get(call_id, False)
                for given in self.given
            )
            more = allowed + sum(self._loose())
            assert count <= 1 + more, f"{call_id} was run {count} times, and {more} repeats were allowed"

    async def _check_decisions(self) -> None:
        for effect in await self.effects():
            if effect.key.kind == "decision" and effect.outcome and "unknown" not in effect.outcome:
                first = self.recorded.setdefault(effect.key, effect.outcome)
                assert effect.outcome == first, "a decision was changed"
        requests = {
            item["id"]: item["name"]
            for job in self.store.all()
            for item in _own(job)
            if item["type"] == "mcp_approval_request"
        }
        by_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for key, outcome in self.recorded.items():
            if "asked" in outcome:
                self._check_said(key.id.split("_", 2)[2] if key.id.startswith("repeat_") else key.id, outcome)
            else:
                by_id[key.id].append(outcome)
        for id, recorded in by_id.items():
            assert len(recorded) == 1, f"{id} was decided twice: {recorded}"
            self._check_decided(id, requests[id], recorded[0])
        heard: dict[str, bool] = {}
        for post in self.posts:
            for id, (approve, reason) in post.decisions.items():
                assert heard.setdefault(id, approve) == approve, f"{id} was told both ways"
                (outcome,) = by_id[id]
                replaced = not approve and reason == REPLACED
                assert replaced or outcome["approve"] == approve, f"{id} is {outcome}; {approve} was sent"

    def _check_decided(self, id: str, name: str, outcome: dict[str, Any]) -> None:
        if outcome["by"] == "policy":
            assert name == NEVER_ASKED if outcome["approve"] else outcome["reason"] == REPLACED, (id, outcome)
            return
        self._check_said(id, outcome)

    def _check_said(self, id: str, outcome: dict[str, Any]) -> None:
        said = {given.decisions[id] for given in self.given if id in given.decisions}
        said |= set(self._loose())
        assert outcome["approve"] in said, f"{id} is {outcome}, and people said {said}"

    def _check_state(self, values: dict[str, Any]) -> None:
        messages: list[BaseMessage] = values.get("messages", [])
        ids = Counter(message.id for message in messages)
        assert set(ids.values()) <= {1}, f"kept twice: {[id for id, count in ids.items() if count > 1]}"
        asked = Counter(self.texts[turn.digest] for turn in self.opened)
        said = [m for m in messages if isinstance(m, HumanMessage) and ":decision:" not in (m.id or "")]
        kept = Counter(message.text for message in said)
        assert kept <= asked, f"questions in the thread that have no turn: {kept - asked}"
        for post in self.posts:
            assert Counter(post.questions) <= asked, f"questions sent that have no turn: {post.questions}"
        overlapped = any(driver.overlapped for driver in self.drivers)
        delivered: dict[str, list[tuple[int, BaseMessage]]] = defaultdict(list)
        for message in messages:
            if found := _OWN.match(message.id or ""):
                delivered[found[1]].append((int(found[2]), message))
        for response_id, parts in delivered.items():
            assert [index for index, _ in parts] == list(range(len(parts))), f"{response_id}: {parts}"
            job = self.store.get(response_id)
            assert job is not None
            items = [item for _, message in parts for item in items_from_message(message)]
            if not overlapped:
                assert items == _own(job)[: len(items)], f"{response_id}: {items} for {_own(job)}"
            # Two runs of a thread at once may have two histories: one takes what the other sent for news.
            ids = Counter(item["id"] for item in items if item.get("id"))
            assert set(ids.values()) <= {1}, f"{response_id}: {items}"
        if not overlapped:
            lost = self.seen.keys() - {str(message.id) for message in messages}
            assert not lost, f"was in the thread and is not any more: {lost}"
        job = values.get("job") or {}
        if job.get("ended") and not job.get("failure") and not overlapped:
            response = self.store.get(job["response_id"])
            assert response is not None
            assert len(delivered[response.id]) == len(_own(response)), (
                f"not all of it: {delivered[response.id]}"
            )
        self.seen.update({str(message.id): message.text for message in messages})

    async def _judge(self, driver: Driver) -> None:
        """Whether a run ended as it may."""
        if driver.process.dead:
            return
        if driver.task.cancelled():
            assert driver.cancelled, f"{driver.what} was cancelled by nobody"
            return
        error = driver.task.exception()
        if error is not None:
            name = type(error).__name__
            self.ends[name] += 1
            assert self._expected(driver, error), f"{driver.what} ended with {name}: {error}"
            return
        self.ends["well"] += 1
        given = driver.given
        if (
            given is not None
            and not driver.overlapped
            and driver.fresh
            and given.shown.kind == "mcp_approval"
        ):
            for id, approve in given.decisions.items():
                found = [outcome for key, outcome in self.recorded.items() if key.id == id]
                if [outcome.get("reason") for outcome in found] != [REPLACED]:
                    assert [outcome["approve"] for outcome in found] == [approve], f"{id}: {approve}, {found}"

    def _expected(self, driver: Driver, error: BaseException) -> bool:
        """Whether this error can come of what happened."""
        statuses = {
            status for text in self.texts.values() for status in re.findall(r'"final_status": "(\w+)"', text)
        }
        refused = any(
            given.shown.kind == "repeat_submission" and not approve
            for given in self.given
            for approve in given.decisions.values()
        )
        return isinstance(error, SupervisorError) and {
            "ThreadBusyError": driver.what == "ask" and (driver.on_busy == "reject" or driver.overlapped),
            # Of two runs at once the older turn's may write last: then the thread shows a turn that is over.
            "TurnEndedError": self.given_up or any(other.overlapped for other in self.drivers),
            "NothingToResumeError": driver.what != "ask" and driver.nothing_on_disk,
            "JobFailedError": "failed" in statuses,
            "JobIncompleteError": "incomplete" in statuses,
            "JobCancelledError": self.cancels > 0,
            "SubmissionUnknownError": self.policies.on_unknown != "ask" or refused,
            "CallUnknownError": self.policies.on_unknown == "fail",
            "ServiceUnavailableError": bool(self.faults),
            "InvalidAnswerError": driver.what == "answer" and driver.given is not None,
        }.get(type(error).__name__, False)

    @property
    def given_up(self) -> bool:
        """Whether a new message, which ends the turn that waits, may have ended before it opened its own."""
        return any(
            driver.what == "ask" and (driver.process.dead or driver.cancelled) for driver in self.drivers
        )

    # -- the end

    async def finish(self) -> None:
        """Everything must end, or wait for a person, who is there now; and the thread must go on after it."""
        for _ in range(400):
            if not (busy := self.busy()):
                break
            for process in {driver.process: None for driver in busy}:
                await self.advance(process, 20)
        assert not self.busy(), f"never ends: {[(d.what, d.process.done[-20:]) for d in self.busy()]}"
        await self.check()
        process = self.start()
        for _ in range(40):
            shown = await self.look()
            job = (await self.values()).get("job") or {}
            turn = next(reversed(await self.turns()), None)
            if turn is None:
                break
            if shown is not None and turn.ended_at is None and job["turn_id"] == turn.turn_id:
                driver = await self.answer(
                    process, shown, dict.fromkeys(shown.ids, shown.kind != "mcp_approval")
                )
            elif turn.ended_at is not None:
                break
            elif job.get("turn_id") == turn.turn_id:
                driver = await self.drive("resume", process, None)
            else:
                driver = await self.ask(process, self.texts[turn.digest], "reject")
            await self.complete(driver)
        else:
            raise AssertionError(f"the turn does not end: {job}")
        last = await self.ask(
            process, 'the last one [[local: {"polls_to_finish": 1, "reply": "the end"}]]', "reject"
        )
        await self.complete(last)
        messages = last.task.result()["messages"]
        assert messages[-1].text == "the end", messages
        for job in self.store.all():
            kept = [m for m in messages if (m.id or "").startswith(f"{job.id}:") and _OWN.match(m.id or "")]
            if job.id == messages[-1].id.split(":")[0]:
                assert len(kept) == len(_own(job))

    async def complete(self, driver: Driver) -> None:
        """Let a run go to its end."""
        for turns in range(100):
            if not driver.alive:
                break
            # It may wait for something that another one has begun.
            for process in self.live() if turns > 9 else [driver.process]:
                await self.advance(process, 20)
        assert not driver.alive, f"{driver.what} never ends: {driver.process.done[-30:]}"
        await self.check()

    async def answer(self, process: Process, shown: Shown, answer: Any, **facts: Any) -> Driver:
        """A person answers."""
        decisions = facts.pop("decisions", answer)
        given = Given(shown, decisions, facts.pop("by_position", ()))
        self.given.append(given)
        return await self.drive("answer", process, Command(resume=answer), given=given, **facts)

    async def dispose(self) -> None:
        """Nothing of it acts any more."""
        for process in self.live():
            await self.kill(process)
        await self.loop.forward(100.0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await self.loop.quiet()


def _own(job: Job) -> list[dict[str, Any]]:
    """The items of a job that do not repeat its input."""
    echoed = 0 if job.behaviour.echo == "none" else len(conversation.read(job.request).history)
    return [step.item for step in job.script.steps[echoed:]]


def _text(item: dict[str, Any]) -> str:
    content = item["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
