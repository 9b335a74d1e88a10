"""What a question makes the agents of these tests do: "Buy milk, then mail Bob (ref 12ab)" is a script.

The programs in this folder run in environments of their own, so this file needs the standard library alone.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

_VERBS = {"buy": "item", "mail": "to", "publish": "title", "look up": "thing", "wait at": "gate", "say": "text"}
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
