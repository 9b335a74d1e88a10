"""The tools that the agent may use. Edit this file to make it yours.

Hosted tools run at the service, with ``genie_space``, ``uc_function``, ``knowledge_assistant``,
``uc_connection`` and ``app`` of :mod:`databricks_supervisor`. A Python function with a docstring and type
annotations is a client-side function: it runs here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from databricks_supervisor import uc_connection

Tool = dict[str, Any] | Callable[..., Any]


def get_current_time(time_zone: str = "UTC") -> str:
    """The current date and time.

    Args:
        time_zone: Name of a time zone, such as Europe/Paris.
    """
    return datetime.now(ZoneInfo(time_zone)).strftime("%A, %Y-%m-%d %H:%M:%S %Z")


def workspace_tools() -> list[Tool]:
    """The tools for your workspace: none yet.

    Example:
        Return, for instance::

            [
                genie_space("01ef…", "Sales by product and quarter"),
                uc_connection("you_dot_com", "Searches the web"),
                get_current_time,
            ]
    """
    return []


def demonstration_tools() -> list[Tool]:
    """The tools for the local supervisor: it asks for the time, and for approval before it publishes."""
    return [uc_connection("reports", "Publishes reports"), get_current_time]
