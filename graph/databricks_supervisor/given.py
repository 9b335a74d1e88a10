"""What a caller gave, read and checked before anything is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage, RemoveMessage, convert_to_messages
from langgraph.types import Command
from pydantic import ValidationError

from .context import SupervisorContext
from .errors import ConfigurationError, InvalidAnswerError, InvalidInputError, NothingToResumeError
from .items.originals import is_portable
from .settings import Settings
from .snapshot import Snapshot
from .tools import read_tools

__all__ = ["asks", "check_resumable", "context_of", "messages_of", "removed_ids", "tools_of"]


def asks(input: Any) -> bool:
    """Whether the input is a question, and not the way back to one."""
    return input is not None and not isinstance(input, Command)


def check_resumable(input: Any, snapshot: Snapshot, thread: str) -> None:
    """Check that there is something to go on with.

    Raises:
        NothingToResumeError: There is not.
        InvalidAnswerError: The answer is none.
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


def messages_of(input: Any) -> list[BaseMessage]:
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


def removed_ids(input: Mapping[str, Any]) -> list[str]:
    """Ids of the messages that the caller takes out of the thread."""
    given = input["messages"]
    messages = given if isinstance(given, list | tuple) else [given]
    return [str(message.id) for message in messages if isinstance(message, RemoveMessage)]


def tools_of(input: Mapping[str, Any], settings: Settings) -> list[dict[str, Any]]:
    """The function tools that the caller brings.

    Raises:
        InvalidInputError: One is no function's schema, or has the name of one of the graph's own.
    """
    given = input.get("tools") or []
    if not isinstance(given, list) or any(
        not isinstance(each, dict) or each.get("type") != "function" for each in given
    ):
        raise InvalidInputError(
            'tools of a caller are function schemas: [{"type": "function", "name": "…", "parameters": {…}}]. '
            "Nothing was submitted."
        )
    if not is_portable(given):
        raise InvalidInputError(
            "tools hold what no checkpoint can keep: a number beyond 64 bits or that is none, half a character, "
            "or a hundred levels. Nothing was submitted."
        )
    try:
        read_tools([*settings.tools, *given])
    except ConfigurationError as error:
        raise InvalidInputError(f"{error} Nothing was submitted.") from None
    return list(given)


def context_of(given: Any, inherited: Any) -> SupervisorContext | None:
    """The run's context; without one, the parent's if it is a supervisor's.

    Raises:
        ConfigurationError: It is not one.
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
