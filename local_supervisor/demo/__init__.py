"""The demonstration: answers questions about a small data set of sales with SQL that is really executed."""

from .demonstrate import KNOWN_MCP_TOOLS, demonstrate

__all__ = ["KNOWN_MCP_TOOLS", "demonstrate"]
