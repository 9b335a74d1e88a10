"""The settings of a supervisor and of one run: validated before anything is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from langchain_core.tools import BaseTool
from pydantic import BaseModel, ConfigDict, Field

from .approval_policy import ApprovalPolicy, check_policy
from .client.dialect import dialect_of
from .errors import ConfigurationError
from .polling import Polling
from .tools import approval_labels

OnFailure = Literal["raise", "message"]
OnUnknownSubmission = Literal["ask", "resubmit", "fail"]
OnBusy = Literal["reject", "wait", "cancel"]

JOB_CAP_S = 30 * 60.0
GRACE_S = 2 * 60.0
_OWN_KEYS = frozenset(
    {"model", "input", "instructions", "tools", "background", "stream", "previous_response_id"}
)
_INFERENCE = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "max_output_tokens",
        "max_tokens",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "stop",
    }
)


class SupervisorContext(BaseModel):
    """Settings of a run, given as ``context=`` or edited as an assistant's configuration.

    Settings that are left out keep the value that the graph was built with. Never put a credential here: LangGraph's
    server stores the context with the run. Name an identity instead, and let ``client_factory(identity)`` find its
    credentials in the process.

    Example:
        >>> SupervisorContext(model="databricks-claude-sonnet-4-5", polling=2).polling
        2.0
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str | None = Field(None, description="Name of the model that the service runs.")
    instructions: str | None = Field(None, description="System instructions for the model.")
    polling: Literal["auto"] | float | None = Field(
        None, description="'auto', or seconds between two polls (such as 2, 10 or 30)."
    )
    require_approval: ApprovalPolicy | None = Field(
        None,
        description="Which MCP tool calls a person must approve: 'always', 'never', or tool names under either.",
    )
    identity: str | None = Field(
        None, description="Name of the identity to act as. A name, never a token; the process knows the rest."
    )

    def overrides(self) -> dict[str, Any]:
        """All fields by name; ``None`` where nothing was given."""
        return {name: getattr(self, name) for name in type(self).model_fields}


@dataclass(frozen=True, slots=True)
class Settings:
    """What :func:`~databricks_supervisor.create_supervisor_graph` was given; see there for the meanings."""

    model: str
    instructions: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    functions: tuple[BaseTool, ...] = ()
    polling: Polling = "auto"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    require_approval: ApprovalPolicy = "always"
    on_failure: OnFailure = "raise"
    on_unknown_submission: OnUnknownSubmission = "ask"
    on_busy: OnBusy = "reject"
    deadline_s: float = JOB_CAP_S + GRACE_S
    create_timeout_s: float = 30.0
    retrieve_timeout_s: float = 30.0
    call_lifetime_s: float = 300.0
    unreachable_after_s: float = 300.0
    not_found_grace_s: float = 10.0
    max_rounds: int = 25
    identity: str | None = None
    dialect: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise ConfigurationError("model is empty. Name one, such as 'databricks-claude-sonnet-4-5'.")
        check_polling(self.polling)
        check_policy(self.require_approval)
        for name in (
            "deadline_s",
            "create_timeout_s",
            "retrieve_timeout_s",
            "call_lifetime_s",
            "unreachable_after_s",
        ):
            _positive(name, getattr(self, name))
        if not _is_number(self.not_found_grace_s) or self.not_found_grace_s < 0:
            raise ConfigurationError("not_found_grace_s must be a number of seconds, 0 or more.")
        if not _is_number(self.max_rounds) or not isinstance(self.max_rounds, int) or self.max_rounds < 1:
            raise ConfigurationError("max_rounds must be a whole number, 1 or more.")
        _one_of("on_failure", self.on_failure, ("raise", "message"))
        _one_of("on_unknown_submission", self.on_unknown_submission, ("ask", "resubmit", "fail"))
        _one_of("on_busy", self.on_busy, ("reject", "wait", "cancel"))
        self._check_parameters()

    def _check_parameters(self) -> None:
        for what, value in (("parameters", self.parameters), ("tools", self.tools)):
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ConfigurationError(f"{what} cannot be sent as JSON: {error}.") from None
        if own := sorted(_OWN_KEYS & self.parameters.keys()):
            raise ConfigurationError(f"parameters may not contain {', '.join(own)}: the graph sets them.")
        refused = self.dialect is None or not dialect_of(self.dialect).parameters_with_tools
        if self.tools and refused and (inference := sorted(_INFERENCE & self.parameters.keys())):
            raise ConfigurationError(
                f"{', '.join(inference)} cannot be given together with tools: the service refuses it "
                "(Parameter not supported when tools are provided). Leave it out, or the tools."
            )

    @property
    def function_names(self) -> frozenset[str]:
        """Names of the client-side functions."""
        return frozenset(function.name for function in self.functions)

    @property
    def may_ask(self) -> bool:
        """Whether a run may have to stop for a person's approval."""
        return self.require_approval != "never" and bool(approval_labels(self.tools))

    def with_context(self, context: SupervisorContext | None) -> Settings:
        """These settings, with what one run or one assistant overrides.

        Raises:
            ConfigurationError: An override cannot work.
        """
        if context is None:
            return self
        given = {name: value for name, value in context.overrides().items() if value is not None}
        return replace(self, **given) if given else self


def check_polling(polling: object) -> None:
    """Raise ConfigurationError unless ``polling`` is ``"auto"``, seconds > 0, or a callable."""
    if polling == "auto" or callable(polling):
        return
    if not _is_number(polling) or polling <= 0:  # type: ignore[operator]
        raise ConfigurationError(
            f"polling must be 'auto', a number of seconds above 0, or a function; got {polling!r}."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(name: str, value: object) -> None:
    if not _is_number(value) or value <= 0:  # type: ignore[operator]
        raise ConfigurationError(f"{name} must be a number of seconds above 0; got {value!r}.")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")
