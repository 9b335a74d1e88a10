"""Conversations of the chat UI: what people say and click, what they see, what was posted."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

from tests.clients.node_packages import run_script

Step = dict[str, Any]


def say(question: str, **behaviour: Any) -> Step:
    """A person types a question; ``behaviour`` is what the service does with it."""
    return {"say": directed(question, **behaviour)}


def allow(name: str, *, send: bool = True) -> Step:
    """A person allows a tool; the UI posts the conversation again."""
    return {"answer": name, "approved": True, "send": send}


def deny(name: str, *, reason: str | None = None, send: bool = False) -> Step:
    """A person denies a tool; the UI posts nothing, other UIs on the AI SDK do."""
    return {"answer": name, "approved": False, "reason": reason, "send": send}


def directed(question: str, **behaviour: Any) -> str:
    """A question with a directive for the local supervisor."""
    return f"{question} [[local: {json.dumps(behaviour)}]]" if behaviour else question


@dataclass(frozen=True, slots=True)
class Chat:
    """How a conversation went.

    Attributes:
        messages: What the UI shows, as its messages.
        posts: ``body`` and ``status`` of each request that was answered.
        errors: What the UI was told went wrong.
        runs: ``name`` and ``input`` of each run of a client's own function.
    """

    messages: list[dict[str, Any]]
    posts: list[dict[str, Any]]
    errors: list[str]
    runs: list[dict[str, Any]]

    @property
    def parts(self) -> list[dict[str, Any]]:
        """What is shown of the agent, in order."""
        return [
            part for message in self.messages if message["role"] == "assistant" for part in message["parts"]
        ]

    @property
    def texts(self) -> list[str]:
        """The texts of the agent."""
        return [part["text"] for part in self.parts if part["type"] == "text"]

    def tool(self, name: str) -> dict[str, Any]:
        """The one call of a tool that is shown."""
        (found,) = (
            part for part in self.parts if part.get("toolName") == name or part["type"] == f"tool-{name}"
        )
        return found


def chat(
    url: str,
    *steps: Step,
    hosted: bool = True,
    conversation: bool = True,
    functions: dict[str, Any] | None = None,
) -> Chat:
    """Have a conversation.

    Args:
        url: Of the server.
        steps: What is said and clicked.
        hosted: Whether tools run at the agent, as Databricks' chat UI has it; else they run in the client.
        conversation: Whether the conversation is named, as Databricks' chat UI does.
        functions: The client's own functions, and what they give.
    """
    given = {
        "url": url,
        "conversation": uuid.uuid4().hex if conversation else None,
        "hosted": hosted,
        "functions": functions or {},
        "steps": steps,
    }
    return Chat(**run_script("chat.mjs", given))
