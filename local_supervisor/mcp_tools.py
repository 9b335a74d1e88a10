"""`python -m local_supervisor.mcp_tools DIR`: an MCP server over stdio, with one tool that appends to a file."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from mcp.server.fastmcp import FastMCP

PUBLISHED = "published.md"


def create_server(directory: Path) -> FastMCP:
    """The tool server.

    Args:
        directory: Directory of the file of published reports.
    """
    server = FastMCP("local-publisher", log_level="ERROR")

    @server.tool()
    def publish_report(title: str, body: str) -> str:
        """Append a report to the file of published reports."""
        with (directory / PUBLISHED).open("a", encoding="utf-8") as file:
            file.write(f"# {title}\n\n{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n\n{body}\n\n")
        return f"“{title}” was published in {PUBLISHED}."

    return server


if __name__ == "__main__":
    create_server(Path(sys.argv[1])).run()
