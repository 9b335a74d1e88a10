"""Plain lines for pipes and files: no colours, no control codes. Errors go to standard error."""

from __future__ import annotations

from typing import Any

import typer

from .text import Rendered, closing_words, show_item, show_question, status_words
from .view import Ending, come_back

_SAY_AGAIN_S = 15.0
_MARK = {"thought": "·", "call": "→", "result": "←", "decision": "•", "other": "•"}


class PlainView:
    """Implements :class:`agent_server.cli.view.View`."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._status = ""
        self._said_at = 0.0
        self._failed = False

    def thread(self, thread_id: str) -> None:
        self._say(f"thread: {thread_id}, come back with: {come_back(thread_id)}")

    def note(self, text: str) -> None:
        self._say(text)

    def busy(self, text: str) -> None:
        """Nothing: a line for every pause would be too many."""

    def progress(self, event: dict[str, Any]) -> None:
        status, elapsed = status_words(event["status"]), event["elapsed_s"]
        if status == "done" or (status == self._status and elapsed - self._said_at < _SAY_AGAIN_S):
            return
        self._status, self._said_at = status, elapsed
        self._say(f"{status}, {elapsed:.0f} s")

    def item(self, item: dict[str, Any], response_id: str | None) -> None:
        if (shown := show_item(item, self._names)) is not None:
            self._show(shown)

    def question(self, value: Any) -> None:
        if isinstance(value, dict) and value.get("error"):
            self._say(str(value["error"]))
        for shown in show_question(value, self._names):
            self._show(shown)

    def finished_before(self, answer: str) -> None:
        self._say(f"This thread has ended. Its last answer:\n\n{answer}")

    def error(self, code: str, message: str) -> None:
        self._failed = True
        typer.echo(f"Error: {message}", err=True)

    def end(self, ending: Ending) -> None:
        if words := closing_words(ending, failed=self._failed):
            self._say(words)

    def abandon(self) -> None:
        """Nothing to put in order."""

    def _show(self, shown: Rendered) -> None:
        if shown.kind == "answer":
            self._say("\n" + "\n".join(shown.body) + "\n")
            return
        mark = _MARK.get(shown.kind, "•")
        lines = [shown.title, *shown.body] if shown.title else shown.body
        self._say("\n".join([f"{mark} {lines[0]}", *(f"    {line}" for line in lines[1:])]))

    def _say(self, text: str) -> None:
        typer.echo(text)
