"""Dialects: what the services of background Responses want differently, as data (docs/services.md).

All of them speak the same contract; each has its own wishes about what is sent back as history, its own limits, and
its own way to tell whether a request has arrived. Nothing outside this module knows a service by its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from ..errors import ConfigurationError
from ..items.history import HistoryRules

STATUSES: Final[Mapping[str, str]] = {
    "pending": "queued",
    "running": "in_progress",
    "active": "in_progress",
    "processing": "in_progress",
    "succeeded": "completed",
    "canceled": "cancelled",
    "expired": "failed",
}
"""Statuses that services use beside OpenAI's, with OpenAI's word."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one service wants.

    Attributes:
        name: Its name in settings.
        title: Its name for people.
        history: What a request's ``input`` may hold.
        body: Fields that every request has.
        parameters_with_tools: Whether inference parameters (``temperature``, …) may be given together with tools.
        response_id_header: Header in which this side may choose the id of a response, so that the job of a POST whose
            answer was lost can be found; ``""`` if the service chooses all ids.
    """

    name: str
    title: str
    history: HistoryRules = field(default_factory=HistoryRules)
    body: Mapping[str, Any] = field(default_factory=dict)
    parameters_with_tools: bool = True
    response_id_header: str = ""

    def chosen_id(self, key: str) -> str | None:
        """The id of the response to a submission, where this side chooses it; the same for every attempt.

        Args:
            key: What makes two submissions the same.

        Example:
            >>> chosen = DIALECTS["agentserver"].chosen_id("turn-1 0")
            >>> chosen == DIALECTS["agentserver"].chosen_id("turn-1 0"), len(chosen)
            (True, 57)
        """
        if not self.response_id_header:
            return None
        return f"caresp_{hashlib.sha256(key.encode()).hexdigest()[:50]}"

    def headers(self, key: str) -> dict[str, str]:
        """Headers of a create."""
        chosen = self.chosen_id(key)
        return {self.response_id_header: chosen} if chosen is not None else {}


_WITHOUT_IDS: Final = HistoryRules(item_ids=False, approval_response_ids=False)

DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect("databricks", "the Databricks Supervisor contract", parameters_with_tools=False),
        Dialect("openai", "OpenAI and Azure OpenAI", _WITHOUT_IDS, body={"store": True}),
        Dialect(
            "agentserver",
            "Azure's agent server",
            _WITHOUT_IDS,
            body={"store": True},
            response_id_header="x-agent-response-id",
        ),
        Dialect("ogx", "OGX", _WITHOUT_IDS, body={"store": True}),
        Dialect("long-running", "Databricks' long-running agent server"),
        Dialect("litellm", "a LiteLLM proxy", _WITHOUT_IDS),
        Dialect("default", "any other service of background Responses"),
    )
}
"""The services that are known, by name."""

DEFAULT: Final = DIALECTS["default"]


def dialect_of(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return DIALECTS[name]
    except (KeyError, TypeError):
        known = ", ".join(f"{each.name} ({each.title})" for each in DIALECTS.values())
        raise ConfigurationError(f"dialect must be one of {known}, or None; got {name!r}.") from None


def guess_dialect(base_url: str) -> Dialect:
    """The dialect of a service whose address tells, else ``default``.

    Example:
        >>> guess_dialect("https://api.openai.com/v1/").name, guess_dialect("http://127.0.0.1:8321/v1").name
        ('openai', 'default')
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if host == "api.openai.com" or host.endswith(".openai.azure.com"):
        return DIALECTS["openai"]
    if "/ai-gateway/mlflow/" in f"{parts.path}/":
        return DIALECTS["databricks"]
    return DEFAULT
