"""Hosted tools, which the service runs, and how a list of tools is read.

A hosted tool is a dict with its settings nested under its type (docs/wire.md: Submit). Dicts of a type that
this module does not know are passed through as they are; only what would certainly be refused is refused
here, before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.tools import BaseTool, tool
from langchain_core.utils.function_calling import convert_to_openai_tool

from .errors import ConfigurationError

Tool = dict[str, Any] | BaseTool | Callable[..., Any]
"""A hosted tool or a function's schema as a dict; or a client-side function: a LangChain tool or a callable."""

FUNCTION_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
_APPROVAL_TYPES = {"uc_connection": "name", "app": "name"}


def genie_space(id: str, description: str = "") -> dict[str, Any]:
    """A Genie space: questions about data, answered with SQL.

    Args:
        id: Id of the space.
        description: What the model is told about it.

    Example:
        >>> genie_space("01ef", "Sales by product and quarter")["type"]
        'genie_space'
    """
    return _hosted("genie_space", id=id, description=description)


def uc_function(name: str, description: str = "") -> dict[str, Any]:
    """A Unity Catalog function, by its full name ``catalog.schema.function``.

    Raises:
        ConfigurationError: The name does not have three parts.

    Example:
        >>> uc_function("main.sales.top_products")["uc_function"]["name"]
        'main.sales.top_products'
    """
    parts = str(name).split(".")
    if len(parts) != 3 or not all(part.strip() for part in parts):
        raise ConfigurationError(f"uc_function {name!r}: give the full name, catalog.schema.function.")
    return _hosted("uc_function", name=name, description=description)


def knowledge_assistant(knowledge_assistant_id: str, description: str = "") -> dict[str, Any]:
    """A Knowledge Assistant: questions about documents.

    Example:
        >>> knowledge_assistant("ka-1", "Our handbook")["type"]
        'knowledge_assistant'
    """
    return _hosted(
        "knowledge_assistant", knowledge_assistant_id=knowledge_assistant_id, description=description
    )


def uc_connection(name: str, description: str = "") -> dict[str, Any]:
    """An MCP server behind a Unity Catalog connection. Its calls need approval (docs/wire.md: Approvals).

    Example:
        >>> uc_connection("you_dot_com", "Searches the web")["uc_connection"]["name"]
        'you_dot_com'
    """
    return _hosted("uc_connection", name=name, description=description)


def app(name: str, description: str = "") -> dict[str, Any]:
    """A Databricks App that is an MCP server or an agent. Its calls need approval (docs/wire.md: Approvals).

    Example:
        >>> app("my-mcp-server")["type"]
        'app'
    """
    return _hosted("app", name=name, description=description)


def mcp(server_label: str, server_url: str | None = None, **settings: Any) -> dict[str, Any]:
    """An MCP server that the service calls, in OpenAI's form. Its calls need approval unless it says otherwise.

    Args:
        server_label: Name of the server in calls and approvals.
        server_url: Its address; a service may know its servers by label alone.
        settings: More fields of the tool, such as ``require_approval``, ``allowed_tools`` or ``headers``.

    Raises:
        ConfigurationError: The label is empty.

    Example:
        >>> mcp("shop", "https://shop.example/mcp")["server_label"]
        'shop'
    """
    if not isinstance(server_label, str) or not server_label.strip():
        raise ConfigurationError("mcp: server_label is empty. Give the server a name.")
    address = {"server_url": server_url} if server_url else {}
    return {"type": "mcp", "server_label": server_label, **address, **settings}


def _hosted(kind: str, **settings: str) -> dict[str, Any]:
    required = {key: value for key, value in settings.items() if key != "description"}
    for key, value in required.items():
        if not isinstance(value, str) or not value.strip():
            raise ConfigurationError(f"{kind}: {key} is empty. Give the {key} of the {kind}.")
    return {"type": kind, kind: {key: value for key, value in settings.items() if value}}


def read_tools(tools: Sequence[Tool]) -> tuple[list[dict[str, Any]], list[BaseTool]]:
    """Split what a caller declared into what the service is told and what runs here.

    Returns:
        The ``tools`` of the request, and the client-side functions among them.

    Raises:
        ConfigurationError: A tool is not one, a function's name cannot be sent, or two have one name.
    """
    declared: list[dict[str, Any]] = []
    functions: list[BaseTool] = []
    for given in tools:
        if isinstance(given, dict):
            declared.append(given)
        elif isinstance(given, BaseTool) or callable(given):
            function = given if isinstance(given, BaseTool) else _from_callable(given)
            functions.append(function)
            declared.append({"type": "function", **convert_to_openai_tool(function)["function"]})
        else:
            raise ConfigurationError(
                f"A tool is a dict, a LangChain tool or a callable; got {type(given).__name__}."
            )
    names: set[str] = set()
    for entry in declared:
        _check(entry, names)
    return declared, functions


def _from_callable(function: Callable[..., Any]) -> BaseTool:
    try:
        return tool(function)
    except ValueError as error:  # langchain-core: no docstring, no annotations
        name = getattr(function, "__name__", repr(function))
        raise ConfigurationError(f"Function {name!r} cannot be a tool: {error}.") from error


def _check(entry: dict[str, Any], names: set[str]) -> None:
    kind = entry.get("type")
    if not isinstance(kind, str) or not kind:
        raise ConfigurationError(f"A tool without a type: {sorted(entry)}. Every tool dict needs 'type'.")
    if kind in {"genie_space", "uc_function", "knowledge_assistant", "uc_connection", "app"}:
        if not isinstance(entry.get(kind), dict):
            raise ConfigurationError(
                f"Tool of type {kind}: its settings are nested under {kind!r}. Use {kind}(…) to build it."
            )
    elif kind == "function":
        name = entry.get("name")
        if not isinstance(name, str) or not FUNCTION_NAME.fullmatch(name):
            raise ConfigurationError(
                f"Function name {name!r} cannot be sent: it must match {FUNCTION_NAME.pattern}."
            )
        if name in names:
            raise ConfigurationError(f"Two functions are named {name!r}. Rename one of them.")
        names.add(name)
        parameters = entry.get("parameters")
        if parameters is not None and (
            not isinstance(parameters, dict) or parameters.get("type") != "object"
        ):
            raise ConfigurationError(
                f"Function {name!r}: 'parameters' must be a JSON Schema of type object, or be absent."
            )


def approval_labels(declared: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the declared tools whose calls may need a person's approval."""
    hosted = [
        str(entry[entry["type"]].get(_APPROVAL_TYPES[entry["type"]], entry["type"]))
        for entry in declared
        if entry["type"] in _APPROVAL_TYPES
    ]
    servers = [
        str(entry.get("server_label") or "mcp")
        for entry in declared
        if entry["type"] == "mcp" and entry.get("require_approval") != "never"
    ]
    return hosted + servers
