"""A run's input and context, read and checked before anything else happens."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, RemoveMessage, ToolMessage, convert_to_messages
from langgraph.types import Command
from pydantic import ValidationError

from ..checkpoint.snapshot import Snapshot
from ..errors import ConfigurationError, InvalidAnswerError, InvalidInputError, NothingToResumeError
from ..items.history import question
from ..items.json_values import is_json_safe
from ..settings import Settings, SupervisorContext
from ..tools import read_tools


@dataclass(frozen=True, slots=True)
class CallerInput:
    """A question as its caller gave it.

    Attributes:
        messages: Its messages, each with an id.
        removals: Messages that it removes from the thread.
        tools: Schemas of functions that the caller runs itself.
        turn_id: The turn id that the caller chose, or ``None``.
        follows: Id of the turn that the caller saw as the thread's latest, ``""`` for none; ``None`` if it did
            not say.
    """

    messages: list[BaseMessage]
    removals: list[RemoveMessage]
    tools: list[dict[str, Any]]
    turn_id: str | None
    follows: str | None


def read_input(input: Any, settings: Settings) -> CallerInput:
    """Read and check a question.

    Raises:
        InvalidInputError: There is no question in it, or a part of it cannot be used.
    """
    messages = _read_messages(input)
    turn_id, follows = input.get("turn_id"), input.get("follows")
    if turn_id is not None:
        checked_id("turn_id", turn_id)
    if follows not in (None, ""):
        checked_id("follows", follows)
    if not any(map(_says_something, question(messages))):
        raise InvalidInputError(
            "The question is empty: give messages with a text, such as "
            '{"messages": [{"role": "user", "content": "…"}]}. Nothing was submitted.'
        )
    for message in messages:
        if not message.id:
            message.id = str(uuid.uuid4())
    tools = _read_caller_tools(input, settings)
    return CallerInput(messages, _read_removals(input), tools, turn_id, follows)


def is_question(input: Any) -> bool:
    """Whether the input is a question; otherwise it resumes the thread."""
    return input is not None and not isinstance(input, Command)


def check_resumable(input: Any, snapshot: Snapshot, thread: str) -> None:
    """Check that there is something to resume.

    Raises:
        NothingToResumeError: The thread has no checkpoint.
        InvalidAnswerError: The command resumes with ``None``.
    """
    if isinstance(input, Command) and input.resume is None and not (input.update or input.goto):
        raise InvalidAnswerError(
            "Command(resume=None) is no answer. Nothing was approved; it is still pending."
        )
    if not snapshot.exists:
        raise NothingToResumeError(
            f"Thread {thread} has nothing to resume: no checkpoint was written for it. "
            "Ask the question again: if its job was submitted, it is found and not submitted again."
        )


def _read_messages(input: Any) -> list[BaseMessage]:
    """The messages of an input.

    Raises:
        InvalidInputError: It has none, or they cannot be read.
    """
    if not isinstance(input, Mapping) or not input.get("messages"):
        given = sorted(input) if isinstance(input, Mapping) else type(input).__name__
        raise InvalidInputError(
            'The input has no messages: give {"messages": [{"role": "user", "content": "…"}]} '
            f"(got {given}). A parent graph shares its conversation under the key 'messages'. "
            "Nothing was submitted."
        )
    given = input["messages"]
    try:
        messages = convert_to_messages(given if isinstance(given, list | tuple) else [given])
    except Exception as error:
        raise InvalidInputError(f"The messages cannot be read: {error} Nothing was submitted.") from None
    return [message for message in messages if not isinstance(message, RemoveMessage)]


def _read_removals(input: Mapping[str, Any]) -> list[RemoveMessage]:
    given = input["messages"]
    messages = given if isinstance(given, list | tuple) else [given]
    return [RemoveMessage(id=str(each.id)) for each in messages if isinstance(each, RemoveMessage)]


def _read_caller_tools(input: Mapping[str, Any], settings: Settings) -> list[dict[str, Any]]:
    """Schemas of functions that the caller runs itself.

    Raises:
        InvalidInputError: One is not a function schema, or has the name of one of the graph's tools.
    """
    given = input.get("tools") or []
    if not isinstance(given, list) or any(
        not isinstance(each, dict) or each.get("type") != "function" for each in given
    ):
        raise InvalidInputError(
            'tools of a caller are function schemas: [{"type": "function", "name": "…", "parameters": {…}}]. '
            "Nothing was submitted."
        )
    if not is_json_safe(given):
        raise InvalidInputError(
            "tools hold what no checkpoint can keep: a number beyond 64 bits or that is none, half a character, "
            "or a hundred levels. Nothing was submitted."
        )
    try:
        read_tools([*settings.tools, *given])
    except ConfigurationError as error:
        raise InvalidInputError(f"{error} Nothing was submitted.") from None
    return list(given)


def read_context(given: Any, inherited: Any) -> SupervisorContext | None:
    """The run's context; if none is given, the parent's, where that is a :class:`.SupervisorContext`.

    Raises:
        ConfigurationError: The context is not valid.
    """
    context = inherited if given is None else given
    if given is None:
        return context if isinstance(context, SupervisorContext) else None
    if isinstance(context, SupervisorContext):
        return context
    try:
        return SupervisorContext.model_validate(context)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ConfigurationError(f"context.{where}: {problem['msg']}. Nothing was submitted.") from None


def checked_id(name: str, value: Any) -> str:
    """The id, if every database can store it.

    Raises:
        InvalidInputError: It is not a string, is empty, or has characters that a database cannot store.
    """
    if isinstance(value, str) and value.strip() and "\x00" not in value:
        try:
            value.encode()
        except UnicodeEncodeError:
            pass
        else:
            return value
    raise InvalidInputError(f"{name} must be a non-empty text; got {value!r}. Nothing was submitted.")


def _says_something(message: BaseMessage) -> bool:
    if isinstance(message, ToolMessage):
        return True  # A function's output may be empty.
    parts = message.content if isinstance(message.content, list) else []
    return bool(str(message.text).strip()) or any(
        isinstance(part, dict) and part.get("type") not in ("text", "input_text") for part in parts
    )
