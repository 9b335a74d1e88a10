"""Settings of the app: from the environment and `.env`, every one of them documented in `.env.example`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .errors import UsageError

__all__ = ["AppSettings", "SettingError", "load_settings"]

PREFIX = "SUPERVISOR_"


class SettingError(UsageError):
    """A setting that cannot work: which one, and why."""


class AppSettings(BaseSettings):
    """What can be set about the app.

    Attributes:
        model: Name of the model that the service runs.
        instructions: System instructions for the model.
        poll_interval: ``"auto"``, or seconds between two polls of a job.
        state_url: Where checkpoints and ledger are kept: ``sqlite:///…`` or ``postgresql://…``.
        require_approval: Which MCP tool calls a person must approve, in OpenAI's vocabulary.
        on_unknown_submission: What happens when nobody knows whether a question arrived.
        create_timeout_s: Time-out of the request that submits a job, in seconds.
        durability: ``"sync"`` writes each checkpoint before the next step; ``"inherit"`` leaves it to LangGraph.
        tools: Which list of :mod:`agent_server.tools` is used.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore", env_ignore_empty=True
    )

    model: str = "databricks-claude-sonnet-4-5"
    instructions: str | None = None
    poll_interval: Literal["auto"] | float = "auto"
    state_url: str = Field("sqlite:///.supervisor/state.sqlite", repr=False)
    require_approval: Annotated[Any, NoDecode] = "always"
    on_unknown_submission: Literal["ask", "resubmit", "fail"] = "ask"
    create_timeout_s: float = 30.0
    durability: Literal["sync", "inherit"] = "sync"
    tools: Literal["auto", "demonstration", "workspace"] = "auto"

    @field_validator("model")
    @classmethod
    def _named(cls, model: str) -> str:
        if not model.strip():
            raise ValueError("name a model, such as databricks-claude-sonnet-4-5")
        return model.strip()

    @field_validator("poll_interval", mode="before")
    @classmethod
    def _interval(cls, given: Any) -> Any:
        return given if given == "auto" else _seconds(given, "'auto' or a number of seconds above 0")

    @field_validator("create_timeout_s", mode="before")
    @classmethod
    def _timeout(cls, given: Any) -> float:
        return _seconds(given, "a number of seconds above 0")

    @field_validator("state_url")
    @classmethod
    def _state_url(cls, url: str) -> str:
        scheme, separator, rest = url.partition("://")
        backend, _, driver = scheme.partition("+")
        if separator and backend == "sqlite" and driver in ("", "aiosqlite"):
            path = rest[1:] if rest.startswith("/") else ""
            if path and path != ":memory:" and "?" not in path:
                return url
        elif separator and backend in ("postgresql", "postgres") and driver in ("", "psycopg"):
            return url
        raise ValueError("must be sqlite:///path/to/state.sqlite or postgresql://user:password@host/database")

    @field_validator("require_approval", mode="before")
    @classmethod
    def _policy(cls, given: Any) -> Any:
        if not isinstance(given, str) or given in ("always", "never"):
            return given
        try:
            policy = json.loads(given)
        except ValueError:
            policy = None
        if not isinstance(policy, dict):
            raise ValueError('must be always, never, or JSON such as {"never": {"tool_names": ["search"]}}')
        return policy


def load_settings(**overrides: Any) -> AppSettings:
    """Read the settings.

    Args:
        overrides: Values that win over the environment; ``None`` is left out.

    Raises:
        SettingError: One of them cannot work; the message says which and why, in one line, without secrets.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return AppSettings(**given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    except (UnicodeDecodeError, OSError) as unreadable:
        raise SettingError(f"{Path('.env').resolve()} cannot be read: {unreadable}") from None
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    shown = "" if name == "state_url" else f"={str(problem.get('input'))[:80]}"
    why = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    raise SettingError(f"{PREFIX}{name.upper()}{shown}: {why}.")


def _seconds(given: Any, wanted: str) -> float:
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"must be {wanted}")
    return seconds
