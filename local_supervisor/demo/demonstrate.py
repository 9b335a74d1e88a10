"""Answers a question in several steps: queries, a report, and an approval to publish it."""

from __future__ import annotations

import re
from typing import Any

from .. import items as make
from ..conversation import Conversation
from ..ids import IdFactory
from .intent import understand
from .report import Report, write_report

Item = dict[str, Any]
QUERY_TOOL = "system__ai__genie_query"
PUBLISH_TOOL = "publish_report"
TIME_FUNCTION = "get_current_time"
KNOWN_MCP_TOOLS = frozenset({PUBLISH_TOOL})

_PUBLISH = re.compile(
    r"\bpublish|\b(post|send)\b.*\b(to|in|on)\b|\b(post|send|share) (it|this|that|these|them|the|with)\b",
    re.I,
)
_TIME = re.compile(r"(?<!over )(?<!each )\b(time|today|now|date|clock)\b", re.I)


def demonstrate(conversation: Conversation, tools: list[Item], ids: IdFactory) -> list[Item]:
    """The new output items for a question, or for the output of a client-side function.

    Args:
        conversation: The question, earlier questions, and the outputs of functions.
        tools: The request's tools, which may include one to publish reports and a function for the time.
        ids: Creates the ids.
    """
    question = conversation.question
    answered = [f"`{answer.name}` says: {answer.output}" for answer in conversation.outputs]
    if not answered and _TIME.search(question) and _declares(tools, TIME_FUNCTION):
        thought = f"The time is known to the client: call {TIME_FUNCTION}."
        return [make.reasoning(ids, thought), make.function_call(ids, TIME_FUNCTION, {})]
    wants_publishing = _PUBLISH.search(question) is not None
    intent = understand(question, conversation.earlier)
    if answered and not understand(question).understood:
        return [make.message(ids, "\n".join(answered))]
    if wants_publishing and not intent.understood and conversation.earlier:
        # "publish it" refers to the previous question
        intent = understand(conversation.earlier[-1], conversation.earlier[:-1])
    report = write_report(intent)
    publisher = _publisher(tools) if wants_publishing and intent.understood else None
    if wants_publishing and publisher is None and intent.understood:
        answered.append("(There is no tool in this request to publish it with.)")
    output = _run(report, ids, answered)
    if publisher is not None:
        arguments = {"title": report.title, "body": report.text}
        output.append(make.approval_request(ids, PUBLISH_TOOL, arguments, publisher))
    return output


def _run(report: Report, ids: IdFactory, preface: list[str]) -> list[Item]:
    output = [make.reasoning(ids, report.thought)]
    for query in report.queries:
        call = make.function_call(ids, QUERY_TOOL, {"query": query.sql})
        output += [call, make.function_output(call["call_id"], query.result.markdown())]
    output.append(make.message(ids, "\n\n".join([*preface, report.text])))
    return output


def _declares(tools: list[Item], function: str) -> bool:
    return any(tool.get("type") == "function" and tool.get("name") == function for tool in tools)


def _publisher(tools: list[Item]) -> str | None:
    """The label of the first tool server that needs approvals."""
    for tool in tools:
        settings = tool.get(str(tool.get("type")))
        if tool.get("type") in ("uc_connection", "app") and isinstance(settings, dict):
            return str(settings.get("name"))
    return None
