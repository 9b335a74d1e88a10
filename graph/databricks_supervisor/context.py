"""What one run, or one assistant in Studio, may set: JSON alone, and nothing secret."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .policy import ApprovalPolicy

__all__ = ["SupervisorContext"]


class SupervisorContext(BaseModel):
    """Settings of a run, given as ``context=`` or edited as an assistant's configuration.

    What is left out keeps the value that the graph was built with. A credential has no place here: on
    LangGraph's server a context is stored with the run. Name an identity instead, and let
    ``client_factory(identity)`` find its credentials in the process.

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
        """What was given, by field name."""
        return {name: getattr(self, name) for name in type(self).model_fields}
