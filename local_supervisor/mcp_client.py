"""`python -m local_supervisor.mcp_client DIR NAME ARGUMENTS`: one call of a tool, with the official client.

It runs in a separate process because importing `mcp` takes longer than everything else in this package.
"""

from __future__ import annotations

import asyncio
import json
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import TextContent


async def call_tool(directory: str, name: str, arguments: str) -> str:
    """Start the tool server, call the tool, and return its text or error."""
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "local_supervisor.mcp_tools", directory]
    )
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        result = await session.call_tool(name, json.loads(arguments))
    text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
    return f"Error: {text}" if result.isError else text


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(call_tool(*sys.argv[1:4])))
