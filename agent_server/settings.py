"""Settings of the app: from the environment and `.env`, every one of them documented in `.env.example`."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .errors import UsageError
from .storage.url import check_state_url

PREFIX = "SUPERVISOR_"
_APPS = "apps/"


class SettingError(UsageError):
    """A setting that cannot work: which one, and why."""


class AppSettings(BaseSettings):
    """The settings.

    Attributes:
        backend: Which service answers: ``"supervisor"``, ``"apps/NAME"`` or ``"openai"``.
        auth: In whose name the server asks: ``"app"`` or ``"user"``.
        local: Whether the local supervisor answers; ``None``: when ``backend`` needs a workspace that is missing.
        model: Name of the model that the service runs; for an app ``apps/NAME`` unless it is given.
        instructions: System instructions for the model.
        poll_interval: ``"auto"``, or seconds between two polls of a job.
        state_url: Where checkpoints and ledger are kept; see :mod:`agent_server.storage.url`.
        require_approval: Which MCP tool calls a person must approve, in OpenAI's vocabulary.
        on_unknown_submission: What happens when it is unknown whether a question arrived.
        create_timeout_s: Time-out of the request that submits a job, in seconds.
        durability: ``"sync"`` writes each checkpoint before the next step; ``"inherit"`` leaves it to LangGraph.
        tools: Which list of :mod:`agent_server.tools` is used.
        ui: Whether the server passes requests for the chat UI on to it; ``start-app`` sets it.
        ui_dir: Folder of the chat UI.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore", env_ignore_empty=True
    )

    backend: str = "supervisor"
    auth: Literal["app", "user"] = "app"
    local: bool | None = None
    model: str = "databricks-claude-sonnet-4-5"
    instructions: str | None = None
    poll_interval: Literal["auto"] | float = "auto"
    state_url: str = Field("sqlite:///.supervisor/state.sqlite", repr=False)
    require_approval: Annotated[Any, NoDecode] = "always"
    on_unknown_submission: Literal["ask", "resubmit", "fail"] = "ask"
    create_timeout_s: float = 30.0
    durability: Literal["sync", "inherit"] = "sync"
    tools: Literal["auto", "demonstration", "workspace"] = "auto"
    ui: bool = False
    ui_dir: Path = Path("e2e-chatbot-app-next")

    @property
    def app(self) -> str | None:
        """Name of the Databricks App that answers."""
        return self.backend.removeprefix(_APPS) if self.backend.startswith(_APPS) else None

    @field_validator("backend")
    @classmethod
    def _backend(cls, given: str) -> str:
        if given in ("supervisor", "openai") or re.fullmatch(_APPS + "[a-z0-9-]+", given):
            return given
        raise ValueError("must be supervisor, apps/NAME (lower-case letters, digits and dashes) or openai")

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
        check_state_url(url)
        return url

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

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.auth == "user" and self.backend != "supervisor":
            why = "a user's token is good for the supervisor only; use SUPERVISOR_AUTH=app"
            raise ValueError(f"{PREFIX}AUTH=user with {PREFIX}BACKEND={self.backend}: {why}")
        if "model" not in self.model_fields_set:
            if self.backend == "openai" and not self.local:
                raise ValueError(
                    f"{PREFIX}MODEL: {PREFIX}BACKEND=openai needs the name of a model of that service"
                )
            if self.app is not None and not self.local:
                self.model = self.backend  # As the Databricks SDK addresses an app.
        return self


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
    if not problem["loc"]:  # Two settings contradict each other: the text names them.
        raise SettingError(f"{problem['msg'].removeprefix('Value error, ')}.")
    name = str(problem["loc"][0])
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
