"""What a view shows. There is one for a terminal, one for plain text, and one for JSON lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import Exit

STATUS = {
    Exit.ANSWERED: "completed",
    Exit.WAITING: "waiting",
    Exit.UNKNOWN: "unknown",
    Exit.INTERRUPTED: "interrupted",
    Exit.TERMINATED: "interrupted",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run of the command line ends.

    Attributes:
        exit: The exit code.
        thread_id: The thread.
        response_id: The job, if there is one.
        text: Everything that was answered to the question.
        known: Whether the thread is on disk, so that one can come back to it.
    """

    exit: Exit
    thread_id: str
    response_id: str | None = None
    text: str = ""
    known: bool = False

    @property
    def status(self) -> str:
        """The exit code as a word."""
        return STATUS.get(self.exit, "failed")


class View(Protocol):
    """Shows what happens."""

    def thread(self, thread_id: str) -> None:
        """The thread, before anything else."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def busy(self, text: str) -> None:
        """Something that takes a while has begun."""

    def progress(self, event: dict[str, Any]) -> None:
        """The job's progress: the library's event."""

    def item(self, item: dict[str, Any], response_id: str | None) -> None:
        """An item was delivered."""

    def question(self, value: Any) -> None:
        """The agent asks a person: an interrupt's value."""

    def finished_before(self, answer: str) -> None:
        """The thread had ended before this run; this was its answer."""

    def error(self, code: str, message: str) -> None:
        """What went wrong: the error's class, and a message for people."""

    def end(self, ending: Ending) -> None:
        """The last thing that is shown."""

    def abandon(self) -> None:
        """The process ends at this moment: restore the terminal."""


def come_back(thread_id: str) -> str:
    """The command that goes on with a thread."""
    return f"uv run ask --thread {thread_id}"


def repeats(value: Any) -> bool:
    """Whether a question is about repeating something of unknown outcome, and not about an approval."""
    return isinstance(value, dict) and value.get("kind") in ("repeat_submission", "repeat_call")
