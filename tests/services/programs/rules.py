"""What a question makes the agents of these tests do: "Buy milk, then mail Bob (ref 12ab)" is a script.

An agent here does whatever its input lets it do: it runs each call that is approved and whose result is not in the
input, as often as it is sent one. The programs in this folder run in environments of their own, so this file
needs the standard library alone.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

_VERBS = {
    "buy": "item",
    "mail": "to",
    "publish": "title",
    "look up": "thing",
    "wait at": "gate",
    "say": "text",
}
_REFERENCE = re.compile(r"\(ref (\w+)\)")
_STEP = re.compile(rf"({'|'.join(_VERBS)}) (.+)", re.IGNORECASE)

SHOP = ("buy", "mail", "publish")
"""What the tools' server runs."""
FUNCTION = "look_up"
"""What the client runs."""
GATE_PATIENCE_S = 120.0


class Step(NamedTuple):
    """One thing to do.

    Attributes:
        tool: Name of a tool of the server's or of the client's, or ``say``, or ``wait_at``.
        arguments: Its arguments, as the text of a JSON object.
    """

    tool: str
    arguments: str

    @property
    def value(self) -> str:
        """The only argument."""
        return str(*json.loads(self.arguments).values())


def steps_of(question: str) -> list[Step]:
    """What a question asks for, in order."""
    steps = []
    for part in _REFERENCE.sub("", question).strip(" .").split(", then "):
        found = _STEP.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"not a step: {part!r}")
        verb = found[1].lower()
        steps.append(Step(verb.replace(" ", "_"), json.dumps({_VERBS[verb]: found[2].strip()})))
    return steps


def reference_of(question: str) -> str:
    """The test that asks, by the reference in its question."""
    found = _REFERENCE.search(question)
    return found[1] if found else "unknown"


def next_step(steps: Sequence[Step], done: Sequence[tuple[str, str]]) -> Step | None:
    """The first step that is not among the calls (name, arguments) that have their result."""
    left = [(name, json.loads(arguments or "{}")) for name, arguments in done]
    for step in steps:
        if step.tool in ("say", "wait_at"):
            continue
        call = (step.tool, json.loads(step.arguments))
        if call not in left:
            return step
        left.remove(call)
    return None


def answer(steps: Sequence[Step], turn: int, results: Sequence[str]) -> str:
    """The agent's last word: what was asked to be said, every result, and which turn this is."""
    said = [step.value for step in steps if step.tool == "say"]
    return " ".join([*(f"{text}." for text in [*said, *results]), f"Turn {turn}."])


def pass_gates(steps: Sequence[Step], folder: Path, go_on: Callable[[], bool] = lambda: True) -> None:
    """Wait until somebody has opened every gate that is named in a step; in a thread, please.

    Args:
        steps: What the question asks for.
        folder: A gate is open when a file of its name is in here. ``NAME.reached`` says that somebody waits.
        go_on: Whether there is still a reason to wait.
    """
    for step in steps:
        if step.tool != "wait_at":
            continue
        (folder / f"{step.value}.reached").touch()
        deadline = time.monotonic() + GATE_PATIENCE_S
        while go_on() and not (folder / step.value).exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody opened {step.value}")
            time.sleep(0.02)


def note(file: Path, line: str) -> None:
    """Append a line to a log, in one write."""
    with file.open("ab", buffering=0) as log:
        log.write(f"{line}\n".encode())


class Act(NamedTuple):
    """What an agent does next.

    Attributes:
        kind: ``run`` a tool of the server's and send back its result, ``ask`` for approval, ``call`` a function of
            the client's, ``say`` something.
        step: The call, for all but ``say``.
        approval: Id of the approval that allows a ``run``; None where none was needed.
        text: What is said.
    """

    kind: Literal["run", "ask", "call", "say"]
    step: Step | None = None
    approval: str | None = None
    text: str = ""


@dataclass
class Conversation:
    """What the items of an input say about the latest question.

    Attributes:
        question: Its text.
        turn: How many questions there were.
        done: Calls (name, arguments) that have their result.
        results: Those results, in order.
        approved: Ids of the approvals that let a call run, of whichever turn, with that call.
        refused: Whether a call was refused.
    """

    question: str = ""
    turn: int = 0
    done: list[tuple[str, str]] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    approved: dict[str, tuple[str, str]] = field(default_factory=dict)
    refused: bool = False

    @classmethod
    def read(cls, items: Sequence[dict[str, Any]]) -> Conversation:
        """Read the items of a Responses input, whichever way the runs of approved calls are written."""
        self = cls()
        requests: dict[str, tuple[str, str]] = {}
        calls: dict[str, tuple[str, str]] = {}
        for item in items:
            match item.get("type", "message"):
                case "message" if item.get("role") == "user":
                    self = cls(text_of(item), self.turn + 1, approved=self.approved)
                case "mcp_approval_request":
                    requests[item["id"]] = (item["name"], item["arguments"])
                case "mcp_approval_response" if item.get("approve") is True:
                    if request := requests.get(item["approval_request_id"]):
                        self.approved[item["approval_request_id"]] = request
                case "mcp_approval_response":
                    self.refused = True
                case "mcp_call":
                    call = (item["name"], item["arguments"])
                    self._finish(item.get("approval_request_id"), call, item.get("output"))
                case "function_call":
                    calls[item["call_id"]] = (item["name"], item["arguments"])
                case "function_call_output" if item["call_id"] in calls:
                    self._finish(item["call_id"], calls[item["call_id"]], item["output"])
        return self

    def _finish(self, approval: str | None, call: tuple[str, str], result: object) -> None:
        if approval not in self.approved:
            same = (key for key, request in self.approved.items() if _same(request, call))
            approval = next(same, None)
        self.approved.pop(str(approval), None)
        self.done.append(call)
        self.results.append(str(result))


def play(conversation: Conversation, needs_approval: bool) -> Generator[Act, Any, None]:
    """What an agent does with a conversation, until the word is with somebody else.

    Args:
        conversation: The conversation.
        needs_approval: Whether a person must approve calls of the server's tools.
    """
    steps = steps_of(conversation.question)
    done, results = [*conversation.done], [*conversation.results]
    for approval, (name, arguments) in conversation.approved.items():
        step = Step(name, arguments)
        results.append((yield Act("run", step, approval)))
        done.append((name, arguments))
    if conversation.refused:
        yield Act("say", text=f"Not done. Turn {conversation.turn}.")
        return
    while step := next_step(steps, done):
        if step.tool == FUNCTION:
            yield Act("call", step)
            return
        if needs_approval:
            yield Act("ask", step)
            return
        results.append((yield Act("run", step)))
        done.append((step.tool, step.arguments))
    yield Act("say", text=answer(steps, conversation.turn, results))


def advance(acts: Generator[Act, Any, None], result: str | None) -> Act | None:
    """The agent's next act; None at the end."""
    try:
        return acts.send(result)
    except StopIteration:
        return None


def text_of(message: dict[str, Any]) -> str:
    """The text of a message, of either API."""
    content = message["content"]
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


def _same(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return one[0] == other[0] and json.loads(one[1] or "{}") == json.loads(other[1] or "{}")
