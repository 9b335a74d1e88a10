"""Items, questions and endings as short readable text: pure functions, shared by terminal and plain view."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..errors import Exit
from .view import Ending, come_back, repeats

MOST_LINES = 10
MOST_COLUMNS = 160


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text and what it is.

    Attributes:
        kind: ``"thought"``, ``"call"``, ``"result"``, ``"decision"``, ``"other"`` or ``"answer"`` (markdown).
        title: One line.
        body: More lines, shortened; for an answer, its whole text.
    """

    kind: str
    title: str
    body: list[str]


def clean(text: str) -> str:
    """A text without control characters: what a service says must not steer the terminal.

    Example:
        >>> clean("a" + chr(27) + "[31mb")
        'a[31mb'
    """
    return "".join(
        c for c in text.expandtabs(4) if c == "\n" or ((c.isprintable() or c.isspace()) and c >= " ")
    )


def text_of(content: Any) -> str:
    """The text of an item's content, refusals included; ``""`` for what is none."""
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    texts = [str(part.get("text") or part.get("refusal") or "") for part in parts]
    return "\n\n".join(text for text in texts if text)


def show_item(item: dict[str, Any], names: dict[str, str]) -> Rendered | None:
    """An item in words; ``None`` for one that says nothing.

    Args:
        item: A Responses item.
        names: Names of calls and approvals by id; those that the item introduces are added.
    """
    kind = item.get("type", "message")
    if kind == "message":
        text = clean(text_of(item.get("content")))
        return Rendered("answer", "", text.split("\n")) if text.strip() else None
    if kind == "function_call":
        name = clean(str(item.get("name") or "a function"))
        names[str(item.get("call_id"))] = name
        return Rendered("call", name, laid_out(item.get("arguments")))
    if kind == "function_call_output":
        name = names.get(str(item.get("call_id")), "")
        return Rendered(
            "result", f"result of {name}" if name else "result", _clipped(_text(item.get("output")))
        )
    if kind == "reasoning":
        text = clean(text_of([*(item.get("summary") or []), *(item.get("content") or [])]))
        return Rendered("thought", "", _clipped(text)) if text.strip() else None
    if kind == "mcp_approval_request":  # Shown by the question that follows, or by the decision.
        names[str(item.get("id"))] = _on_server(str(item.get("name")), str(item.get("server_label") or ""))
        return None
    if kind == "mcp_approval_response":
        name = names.get(str(item.get("approval_request_id")), "a tool call")
        reason = clean(str(item.get("reason") or ""))
        verdict = "approved" if item.get("approve") is True else "denied"
        return Rendered("decision", f"{verdict}: {name}", [reason] if reason else [])
    named = " ".join(str(item[key]) for key in ("type", "name") if item.get(key))
    return Rendered("other", clean(named) or "an item without a type", [])


def show_question(value: Any, names: dict[str, str]) -> list[Rendered]:
    """What the agent asks a person: one entry for each thing to decide on.

    Args:
        value: An interrupt's value.
        names: As for :func:`show_item`.
    """
    if not isinstance(value, dict) or "action_requests" not in value:
        return [Rendered("call", "The agent asks", _clipped(_text(value)))]
    shown = []
    labels = value.get("server_labels") or [""] * len(value["action_requests"])
    for id, action, label in zip(value["ids"], value["action_requests"], labels, strict=True):
        if repeats(value):
            known = clean(str(action.get("description") or "")).partition("\nApprove")[0]
            shown.append(Rendered("call", _REPEATED[value["kind"]], known.split("\n")))
        else:
            name = names[str(id)] = _on_server(str(action["name"]), str(label))
            shown.append(Rendered("call", f"Approval needed: {name}", laid_out(action.get("args"))))
    return shown


_REPEATED = {
    "repeat_submission": "It is not known whether the question arrived",
    "repeat_call": "It is not known what a function did before it was cut off",
}


def laid_out(arguments: Any) -> list[str]:
    """The arguments of a call, one under the other, shortened."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            return _clipped(arguments)
    if not isinstance(arguments, dict):
        return _clipped(_text(arguments))
    lines: list[str] = []
    for name, value in arguments.items():
        first, *rest = _clipped(_text(value)) or [""]
        if rest:
            lines += [f"{clean(str(name))}:", *(f"  {line}" for line in (first, *rest))]
        else:
            lines.append(f"{clean(str(name))}: {first}")
    return lines or ["(no arguments)"]


def status_words(status: str) -> str:
    """A job's status for people."""
    known = {
        "queued": "queued",
        "in_progress": "working",
        "completed": "done",
        "unreachable": "the service does not answer, trying again",
    }
    return known.get(status, clean(status))


def closing_words(ending: Ending, *, failed: bool) -> str:
    """What a text view says last; ``""`` for nothing.

    Args:
        ending: How the run ended.
        failed: Whether an error was shown.
    """
    command = come_back(ending.thread_id)
    if ending.exit in (Exit.INTERRUPTED, Exit.TERMINATED):
        if not ending.known:
            return "Interrupted. Nothing was submitted."
        if ending.response_id is None:
            return f"Interrupted before the question was submitted. Go on with: {command}"
        return f"Interrupted; the job goes on. Come back with: {command}"
    if failed:
        resumable = ending.exit == Exit.SERVICE and ending.known
        return f"Go on with: {command}" if resumable else ""
    if ending.exit == Exit.WAITING:
        return (
            f"It waits for an answer. Give one at a terminal with: {command}\n"
            "or add --approve-all or --deny-all."
        )
    if ending.exit == Exit.UNKNOWN:
        return f"A person must decide, at a terminal, with: {command}"
    return ""


def _on_server(name: str, label: str) -> str:
    return clean(f"{name} on {label}" if label else name)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _clipped(text: str) -> list[str]:
    lines = clean(text).strip().split("\n")
    short = [line if len(line) <= MOST_COLUMNS else f"{line[:MOST_COLUMNS]}…" for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        short.append(f"… {len(lines) - MOST_LINES} more lines")
    return short
