"""A real MCP server over streamable HTTP, which counts: ``python tools.py FOLDER PORT_FILE``.

Each effect is a line of ``FOLDER/NAME.effects``, where NAME is given by the address: ``/mcp?effects=NAME``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mcp.server.fastmcp import Context, FastMCP
from rules import note
from serve import serve

shop = FastMCP("shop", stateless_http=True, json_response=True)
folder = Path(sys.argv[1])


@shop.tool()
def buy(item: str, context: Context[Any, Any, Any]) -> str:
    """Buy something."""
    return _do(context, f"buy {item}", f"bought {item}")


@shop.tool()
def mail(to: str, context: Context[Any, Any, Any]) -> str:
    """Send a mail."""
    return _do(context, f"mail {to}", f"mailed {to}")


@shop.tool()
def publish(title: str, context: Context[Any, Any, Any]) -> str:
    """Publish something."""
    return _do(context, f"publish {title}", f"published {title}")


def _do(context: Context[Any, Any, Any], effect: str, result: str) -> str:
    name = context.request_context.request.query_params.get("effects", "unknown")
    note(folder / f"{name}.effects", effect)
    return result


if __name__ == "__main__":
    serve(shop.streamable_http_app(), Path(sys.argv[2]))
