"""The rules that must hold whatever processes do and whenever they die."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage, HumanMessage

from databricks_supervisor.approvals.decisions import REPLACED
from databricks_supervisor.errors import SupervisorError
from databricks_supervisor.items import items_from_message
from local_supervisor import conversation
from local_supervisor.jobs import Job
from tests.support.simulation.records import NEVER_ASKED, GraphRun

if TYPE_CHECKING:
    from tests.support.simulation.world import World

OWN_MESSAGE = re.compile(r"^(resp_\w+):(\d+)$")
"""Ids of messages that a job's output became."""


class Invariants:
    """Checks a world after each step.

    Args:
        world: What is checked.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    async def check(self) -> None:
        """Raise AssertionError if anything happened that must not."""
        assert not self.world.wrong, self.world.wrong
        self._check_posts()
        self._check_runs()
        await self._check_decisions()
        self._check_state(await self.world.values())
        for run in self.world.runs:
            if not run.alive and not run.judged:
                run.judged = True
                await self._judge(run)

    def _loose(self) -> list[bool]:
        """Answers by position that may have met another question, because somebody else answered meanwhile."""
        answers = [d.given for d in self.world.runs if d.given is not None and d.overlapped]
        return [value for given in answers for value in given.by_position]

    def _check_posts(self) -> None:
        sent = Counter((post.turn_id, post.round) for post in self.world.posts)
        for key, count in sent.items():
            allowed = {
                id
                for given in self.world.given
                if given.shown.kind == "repeat_submission" and (given.shown.turn_id, given.shown.round) == key
                for id, approved in given.decisions.items()
                if approved
            }
            more = 2 if self.world.policies.on_unknown == "resubmit" else len(allowed) + sum(self._loose())
            assert count <= 1 + more, f"{key} was posted {count} times, and {more} repeats were allowed"
        jobs = Counter(post.response_id for post in self.world.posts if post.response_id is not None)
        assert set(jobs.values()) <= {1}
        assert set(jobs) == {job.id for job in self.world.store.all()}

    def _check_runs(self) -> None:
        if self.world.policies.on_unknown == "resubmit":
            return
        for call_id, count in self.world.function_runs.items():
            allowed = sum(
                given.shown.kind == "repeat_call" and given.decisions.get(call_id, False)
                for given in self.world.given
            )
            more = allowed + sum(self._loose())
            assert count <= 1 + more, f"{call_id} was run {count} times, and {more} repeats were allowed"

    async def _check_decisions(self) -> None:
        for effect in await self.world.effects():
            if effect.key.kind == "decision" and effect.outcome and "unknown" not in effect.outcome:
                first = self.world.recorded.setdefault(effect.key, effect.outcome)
                assert effect.outcome == first, "a decision was changed"
        requests = {
            item["id"]: item["name"]
            for job in self.world.store.all()
            for item in own_items(job)
            if item["type"] == "mcp_approval_request"
        }
        by_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for key, outcome in self.world.recorded.items():
            if "asked" in outcome:
                self._check_said(key.id.split("_", 2)[2] if key.id.startswith("repeat_") else key.id, outcome)
            else:
                by_id[key.id].append(outcome)
        for id, recorded in by_id.items():
            assert len(recorded) == 1, f"{id} was decided twice: {recorded}"
            self._check_decided(id, requests[id], recorded[0])
        heard: dict[str, bool] = {}
        for post in self.world.posts:
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
        said = {given.decisions[id] for given in self.world.given if id in given.decisions}
        said |= set(self._loose())
        assert outcome["approve"] in said, f"{id} is {outcome}, and people said {said}"

    def _check_state(self, values: dict[str, Any]) -> None:
        messages: list[BaseMessage] = values.get("messages", [])
        ids = Counter(message.id for message in messages)
        assert set(ids.values()) <= {1}, f"kept twice: {[id for id, count in ids.items() if count > 1]}"
        asked = Counter(self.world.texts[turn.digest] for turn in self.world.opened)
        said = [m for m in messages if isinstance(m, HumanMessage) and ":decision:" not in (m.id or "")]
        kept = Counter(message.text for message in said)
        assert kept <= asked, f"questions in the thread that have no turn: {kept - asked}"
        for post in self.world.posts:
            assert Counter(post.questions) <= asked, f"questions sent that have no turn: {post.questions}"
        overlapped = any(run.overlapped for run in self.world.runs)
        delivered: dict[str, list[tuple[int, BaseMessage]]] = defaultdict(list)
        for message in messages:
            if found := OWN_MESSAGE.match(message.id or ""):
                delivered[found[1]].append((int(found[2]), message))
        for response_id, parts in delivered.items():
            assert [index for index, _ in parts] == list(range(len(parts))), f"{response_id}: {parts}"
            job = self.world.store.get(response_id)
            assert job is not None
            items = [item for _, message in parts for item in items_from_message(message)]
            if not overlapped:
                assert items == own_items(job)[: len(items)], f"{response_id}: {items} for {own_items(job)}"
            # Two runs of a thread at once may have two histories: one takes what the other sent for news.
            ids = Counter(item["id"] for item in items if item.get("id"))
            assert set(ids.values()) <= {1}, f"{response_id}: {items}"
        if not overlapped:
            lost = self.world.seen.keys() - {str(message.id) for message in messages}
            assert not lost, f"was in the thread and is not any more: {lost}"
        job = values.get("job") or {}
        if job.get("ended") and not job.get("failure") and not overlapped:
            response = self.world.store.get(job["response_id"])
            assert response is not None
            assert len(delivered[response.id]) == len(own_items(response)), (
                f"not all of it: {delivered[response.id]}"
            )
        self.world.seen.update({str(message.id): message.text for message in messages})

    async def _judge(self, run: GraphRun) -> None:
        """Whether a run ended as it may."""
        if run.process.dead:
            return
        if run.task.cancelled():
            assert run.cancelled, f"{run.what} was cancelled by nobody"
            return
        error = run.task.exception()
        if error is not None:
            name = type(error).__name__
            self.world.ends[name] += 1
            assert self._expected(run, error), f"{run.what} ended with {name}: {error}"
            return
        self.world.ends["well"] += 1
        given = run.given
        if given is not None and not run.overlapped and run.fresh and given.shown.kind == "mcp_approval":
            for id, approve in given.decisions.items():
                found = [outcome for key, outcome in self.world.recorded.items() if key.id == id]
                if [outcome.get("reason") for outcome in found] != [REPLACED]:
                    assert [outcome["approve"] for outcome in found] == [approve], f"{id}: {approve}, {found}"

    def _expected(self, run: GraphRun, error: BaseException) -> bool:
        """Whether this error can come of what happened."""
        statuses = {
            status
            for text in self.world.texts.values()
            for status in re.findall(r'"final_status": "(\w+)"', text)
        }
        refused = any(
            given.shown.kind == "repeat_submission" and not approve
            for given in self.world.given
            for approve in given.decisions.values()
        )
        return isinstance(error, SupervisorError) and {
            "ThreadBusyError": run.what == "ask" and (run.on_busy == "reject" or run.overlapped),
            # Of two runs at once the older turn's may write last: then the thread shows a turn that is over.
            "TurnEndedError": self._given_up or any(other.overlapped for other in self.world.runs),
            "NothingToResumeError": run.what != "ask" and run.nothing_on_disk,
            "JobFailedError": "failed" in statuses,
            "JobIncompleteError": "incomplete" in statuses,
            "JobCancelledError": self.world.cancels > 0,
            "SubmissionUnknownError": self.world.policies.on_unknown != "ask" or refused,
            "CallUnknownError": self.world.policies.on_unknown == "fail",
            "ServiceUnavailableError": bool(self.world.faults),
            "InvalidAnswerError": run.what == "answer" and run.given is not None,
        }.get(type(error).__name__, False)

    @property
    def _given_up(self) -> bool:
        """Whether a new message, which ends the turn that waits, may have ended before it opened its own."""
        return any(run.what == "ask" and (run.process.dead or run.cancelled) for run in self.world.runs)


def own_items(job: Job) -> list[dict[str, Any]]:
    """The items of a job that do not repeat its input."""
    echoed = 0 if job.behaviour.echo == "none" else len(conversation.read(job.request).history)
    return [step.item for step in job.script.steps[echoed:]]
