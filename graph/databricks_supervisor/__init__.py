"""Durable background jobs for the Databricks Supervisor API, as a LangGraph graph.

:func:`create_supervisor_graph` returns a ``StateGraph`` that submits a question as a background job, once,
keeps its id in the graph's state and in a ledger, polls it, pauses for approvals, and can be resumed from
anywhere by polling the same job.
"""

from typing import TYPE_CHECKING, Any

from . import errors
from .approvals.interrupts import SupervisorInterrupt
from .as_tool import as_tool
from .checkpoint.saver import DeduplicatingSaver
from .client.pool import databricks_client
from .errors import *  # noqa: F403
from .graph import create_supervisor_graph
from .ledger import Ledger, MemoryLedger
from .nodes.progress import Progress
from .polling import PollMoment
from .run import Time
from .settings import SupervisorContext
from .state import Job, SupervisorInput, SupervisorOutput, SupervisorState
from .tools import app, genie_space, knowledge_assistant, mcp, uc_connection, uc_function

if TYPE_CHECKING:
    from .ledger import SqlLedger

__all__ = [
    "DeduplicatingSaver",
    "Job",
    "Ledger",
    "MemoryLedger",
    "PollMoment",
    "Progress",
    "SqlLedger",
    "SupervisorContext",
    "SupervisorInput",
    "SupervisorInterrupt",
    "SupervisorOutput",
    "SupervisorState",
    "Time",
    "app",
    "as_tool",
    "create_supervisor_graph",
    "databricks_client",
    "genie_space",
    "knowledge_assistant",
    "mcp",
    "uc_connection",
    "uc_function",
    *errors.__all__,
]


def __getattr__(name: str) -> Any:
    # SQLAlchemy is a quarter of the import; whoever brings no SQL does without it.
    if name == "SqlLedger":
        from .ledger import SqlLedger

        return SqlLedger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
