"""What people read: items, questions and endings as text."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from agent_server.cli.text import clean, closing_words, laid_out, show_item, show_question
from agent_server.cli.view import Ending
from agent_server.cli.view_plain import PlainView
from agent_server.cli.view_terminal import TerminalView
from agent_server.errors import Exit


def test_arguments_are_laid_out_one_under_the_other() -> None:
    assert laid_out('{"to": "ann", "n": 2}') == ["to: ann", "n: 2"]
    assert laid_out({"sql": "SELECT 1\nFROM t"}) == ["sql:", "  SELECT 1", "  FROM t"]
    assert laid_out("") == ["(no arguments)"]
    assert laid_out("not JSON") == ["not JSON"]
    assert laid_out([1]) == ["[1]"]


def test_long_results_are_shortened() -> None:
    rows = "\n".join(f"| {n} |" for n in range(100))
    shown = show_item({"type": "function_call_output", "call_id": "c", "output": rows}, {"c": "query"})
    assert shown is not None
    assert shown.title == "result of query"
    assert shown.body[-1] == "… 90 more lines"
    wide = show_item({"type": "function_call_output", "call_id": "c", "output": "x" * 5000}, {})
    assert wide is not None
    assert len(wide.body[0]) < 200


def test_answers_are_not_shortened() -> None:
    shown = show_item({"type": "message", "content": [{"type": "output_text", "text": "x\n" * 500}]}, {})
    assert shown is not None
    assert len(shown.body) > 400


def test_control_codes_of_a_service_do_not_reach_the_terminal() -> None:
    assert clean("a\x1b[2Jb\x07\r\nc\x9bd\ttab") == "a[2Jb\ncd tab"


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"type": "message", "content": None},
        {"type": "function_call"},
        {"type": "function_call_output", "output": None},
        {"type": "function_call_output", "output": [{"type": "output_text", "text": "x"}]},
        {"type": "reasoning", "summary": None, "content": None},
        {"type": "reasoning", "summary": "text"},
        {"type": "mcp_approval_request"},
        {"type": "mcp_approval_response"},
        {"type": "never_seen", "value": 1},
        {"type": None},
    ],
)
def test_no_item_is_too_odd(item: dict[str, Any]) -> None:
    show_item(item, {})
    terminal = TerminalView(Console(file=io.StringIO(), force_terminal=True))
    terminal.item(item, None)
    terminal.end(Ending(Exit.ANSWERED, "t"))
    PlainView().item(item, None)


def test_what_was_decided_is_named_by_its_question() -> None:
    names: dict[str, str] = {}
    value = {
        "kind": "mcp_approval",
        "ids": ["c1"],
        "server_labels": ["mail"],
        "action_requests": [{"name": "send", "args": {"to": "ann"}, "description": ""}],
    }
    (question,) = show_question(value, names)
    assert (question.title, question.body) == ("Approval needed: send on mail", ["to: ann"])
    answer = {"type": "mcp_approval_response", "approval_request_id": "c1", "approve": False, "reason": "no"}
    shown = show_item(answer, names)
    assert shown is not None
    assert (shown.title, shown.body) == ("denied: send on mail", ["no"])


@pytest.mark.parametrize(
    ("ending", "failed", "words"),
    [
        (Ending(Exit.ANSWERED, "t", "r", "text", True), False, None),
        (Ending(Exit.FAILED, "t", "r", "", True), True, None),
        (Ending(Exit.SERVICE, "t", None, "", True), True, "Go on with: uv run ask --thread t"),
        (Ending(Exit.SERVICE, "t"), True, None),
        (Ending(Exit.WAITING, "t", "r", "", True), False, "--approve-all"),
        (Ending(Exit.UNKNOWN, "t", None, "", True), False, "A person must decide"),
        (Ending(Exit.UNKNOWN, "t", None, "", True), True, None),
        (Ending(Exit.INTERRUPTED, "t", "r", "", True), False, "the job goes on"),
        (Ending(Exit.TERMINATED, "t", None, "", True), False, "before the question was submitted"),
        (Ending(Exit.INTERRUPTED, "t"), False, "Nothing was submitted"),
    ],
)
def test_the_last_line_says_what_to_do_next(ending: Ending, failed: bool, words: str | None) -> None:
    said = closing_words(ending, failed=failed)
    assert said == "" if words is None else words in said


def test_markup_of_a_service_is_not_markup_of_ours() -> None:
    written = io.StringIO()
    terminal = TerminalView(Console(file=written, width=80))
    terminal.error("JobFailedError", "[red]x[/red] [/nonsense]")
    terminal.item({"type": "function_call", "call_id": "c", "name": "[bold]", "arguments": "[/]"}, None)
    assert "[red]x[/red] [/nonsense]" in written.getvalue()
    assert "[bold]" in written.getvalue()
