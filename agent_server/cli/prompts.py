"""Answers to what the agent asks: by a flag of the command line, or by the person at the terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from ..threads import PendingInterrupt
from .loop import Answers

_YES, _NO, _LATER = ("y", "yes"), ("n", "no"), ("l", "later", "")
_ASK = {
    "mcp_approval": "Allow {name}? [y]es / [n]o / [l]ater: ",
    "repeat_submission": "Send the question again? [y]es / [n]o, give it up / [l]ater: ",
    "repeat_call": "Run {name} again? [y]es / [n]o, go on without it / [l]ater: ",
}


def by_flag(*, approve: bool | None, otherwise: Answers | None) -> Answers:
    """Answer every approval alike.

    Args:
        approve: The answer; ``None`` answers nothing.
        otherwise: Who is asked about anything else, such as whether to repeat something of unknown outcome.
    """

    async def answer(pending: PendingInterrupt) -> dict[str, Any] | None:
        value = pending.value
        is_approval = isinstance(value, dict) and value.get("kind") == "mcp_approval"
        if approve is not None and is_approval and not value.get("error"):
            decision = (
                {"type": "approve"} if approve else {"type": "reject", "message": "Denied (--deny-all)."}
            )
            return dict.fromkeys(value["ids"], decision)
        return await otherwise(pending) if otherwise is not None else None

    return answer


def prompt() -> Answers:
    """Ask at the terminal, one question after the other, until one is left for later."""
    lines = _Lines()
    put_off: set[str] = set()

    async def answer(pending: PendingInterrupt) -> dict[str, Any] | None:
        value = pending.value
        if not isinstance(value, dict) or value.get("kind") not in _ASK:
            return None
        made: dict[str, Any] = {}
        for id, action in zip(value["ids"], value["action_requests"], strict=True):
            decision = None if id in put_off else await _decision(lines, value["kind"], action["name"])
            if decision is None:
                put_off.update(each for each in value["ids"] if each not in made)
                break
            made[id] = decision
        return made or None

    return answer


async def _decision(lines: _Lines, kind: str, name: str) -> dict[str, Any] | None:
    while True:
        said = (await lines.read(_ASK[kind].format(name=name))).strip().lower()
        if said in _YES:
            return {"type": "approve"}
        if said in _LATER:
            return None
        if said in _NO:
            why = "" if kind == "repeat_submission" else (await lines.read("Why? (Enter to skip): ")).strip()
            return {"type": "reject", "message": why} if why else {"type": "reject"}


class _Lines:
    """Reads lines of the terminal without a thread: one that waits for input would keep the process from ending."""

    def __init__(self) -> None:
        self._left = b""

    async def read(self, prompt: str) -> str:
        """The next line; ``""`` at the end of the input."""
        sys.stdout.write(prompt)
        sys.stdout.flush()
        loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
        while b"\n" not in self._left:
            ready = loop.create_future()
            loop.add_reader(descriptor, ready.set_result, None)
            try:
                await ready
            finally:
                loop.remove_reader(descriptor)
            chunk = os.read(descriptor, 4096)
            if not chunk:
                return ""
            self._left += chunk
        line, _, self._left = self._left.partition(b"\n")
        return line.decode(errors="replace")
