"""The view of a person at a terminal: colours, markdown, and a line that shows that something happens."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.padding import Padding
from rich.panel import Panel
from rich.spinner import Spinner
from rich.text import Text

from .text import Rendered, clean, closing_words, show_item, show_question, status_words
from .view import Ending, come_back

_STYLE = {
    "thought": ("·", "dim italic"),
    "call": ("→", "cyan"),
    "result": ("←", "green"),
    "decision": ("•", "magenta"),
    "other": ("•", "dim"),
}


class TerminalView:
    """Implements :class:`agent_server.cli.view.View`.

    Args:
        console: Where to print; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._names: dict[str, str] = {}
        self._spinner = Spinner("dots", style="cyan")
        self._live: Live | None = None
        self._words = ""
        self._began = 0.0
        self._failed = False

    def thread(self, thread_id: str) -> None:
        line = Text.assemble("thread: ", (thread_id, "bold"), f", come back with: {come_back(thread_id)}")
        self._print(line, style="dim")

    def note(self, text: str) -> None:
        self._print(Text(clean(text)), style="dim")

    def busy(self, text: str) -> None:
        """The moving line, before there is a job."""
        self._move(text, time.monotonic())

    def progress(self, event: dict[str, Any]) -> None:
        self._move(status_words(event["status"]), time.monotonic() - event["elapsed_s"])

    def item(self, item: dict[str, Any], response_id: str | None) -> None:
        if (shown := show_item(item, self._names)) is not None:
            self._print(_drawn(shown))

    def question(self, value: Any) -> None:
        self._stop()
        if isinstance(value, dict) and value.get("error"):
            self._print(Text(clean(str(value["error"]))), style="red")
        for shown in show_question(value, self._names):
            body = Text("\n".join(shown.body))
            title = Text(shown.title, style="bold")
            self._print(Panel(body, title=title, title_align="left", border_style="yellow", expand=False))

    def finished_before(self, answer: str) -> None:
        self._stop()
        self.note("This thread has ended. Its last answer:")
        self._print(_drawn(Rendered("answer", "", clean(answer).split("\n"))))

    def error(self, code: str, message: str) -> None:
        self._stop()
        self._failed = True
        self._print(Text.assemble(("Error: ", "bold red"), clean(message)))

    def end(self, ending: Ending) -> None:
        self._stop()
        if words := closing_words(ending, failed=self._failed):
            self._print(Text(words), style="yellow")

    def abandon(self) -> None:
        self._stop()

    def _print(self, what: RenderableType, style: str | None = None) -> None:
        self._console.print(what, style=style)

    def _move(self, words: str, began: float) -> None:
        self._words, self._began = words, began
        if self._live is None:
            self._live = Live(
                get_renderable=self._moving, console=self._console, transient=True, refresh_per_second=8
            )
            self._live.start()

    def _moving(self) -> RenderableType:
        self._spinner.update(
            text=Text(f"{self._words} · {time.monotonic() - self._began:.0f} s", style="cyan")
        )
        return self._spinner

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _drawn(shown: Rendered) -> RenderableType:
    if shown.kind == "answer":
        return Padding(Markdown("\n".join(shown.body)), (1, 0))
    mark, style = _STYLE.get(shown.kind, _STYLE["other"])
    lines = [shown.title, *shown.body] if shown.title else shown.body
    head = Text(f"{mark} {lines[0]}", style=style)
    body = Text("\n".join(lines[1:]), style="dim")
    return Group(head, Padding(body, (0, 0, 0, 4))) if lines[1:] else head
