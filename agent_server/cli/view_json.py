"""JSON lines on standard output, flushed at once; the last one has the event "end"."""

from __future__ import annotations

import json
import sys
from typing import Any

from .view import Ending


class JsonView:
    """Implements :class:`agent_server.cli.view.View`."""

    def thread(self, thread_id: str) -> None:
        self._write("thread", thread_id=thread_id)

    def note(self, text: str) -> None:
        self._write("note", message=text)

    def busy(self, text: str) -> None:
        """Nothing: whoever reads this is a program."""

    def progress(self, event: dict[str, Any]) -> None:
        self._write("progress", **event)

    def item(self, item: dict[str, Any], response_id: str | None) -> None:
        self._write("item", item=item, response_id=response_id)

    def question(self, value: Any) -> None:
        self._write("question", **(value if isinstance(value, dict) else {"value": value}))

    def finished_before(self, answer: str) -> None:
        self.note("This thread had ended before; its last answer is repeated.")

    def error(self, code: str, message: str) -> None:
        self._write("error", code=code, message=message)

    def end(self, ending: Ending) -> None:
        self._write(
            "end",
            status=ending.status,
            thread_id=ending.thread_id,
            response_id=ending.response_id,
            text=ending.text,
        )

    def abandon(self) -> None:
        """Nothing to put in order."""

    def _write(self, event: str, **fields: Any) -> None:
        sys.stdout.write(json.dumps({"event": event, **fields}, default=str) + "\n")
        sys.stdout.flush()
