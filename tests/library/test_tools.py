"""How a list of tools is read, and what the service is told of it."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from databricks_supervisor import (
    app,
    create_supervisor_graph,
    genie_space,
    knowledge_assistant,
    mcp,
    uc_connection,
    uc_function,
)
from databricks_supervisor.errors import ConfigurationError
from databricks_supervisor.tools import approval_labels, read_tools


@tool
def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def greet(name: str, loud: bool = False) -> str:
    """Greet somebody."""
    return name


async def wait_for(seconds: float) -> None:
    """Wait."""


# ---- hosted tools (docs/wire.md: Submit)


@pytest.mark.parametrize(
    ("made", "sent"),
    [
        (
            genie_space("01ef", "Sales"),
            {"type": "genie_space", "genie_space": {"id": "01ef", "description": "Sales"}},
        ),
        (
            uc_function("main.sales.top", "Top products"),
            {"type": "uc_function", "uc_function": {"name": "main.sales.top", "description": "Top products"}},
        ),
        (
            knowledge_assistant("ka-1", "Handbook"),
            {
                "type": "knowledge_assistant",
                "knowledge_assistant": {"knowledge_assistant_id": "ka-1", "description": "Handbook"},
            },
        ),
        (
            uc_connection("you_dot_com", "Searches"),
            {"type": "uc_connection", "uc_connection": {"name": "you_dot_com", "description": "Searches"}},
        ),
        (app("my-app", "Agent"), {"type": "app", "app": {"name": "my-app", "description": "Agent"}}),
    ],
)
def test_the_settings_of_a_hosted_tool_are_nested_under_its_type(made: Any, sent: Any) -> None:
    assert made == sent
    assert read_tools([made]) == ([sent], [])


@pytest.mark.parametrize("make", [genie_space, knowledge_assistant, uc_connection, app])
def test_a_description_that_is_left_out_is_not_sent(make: Any) -> None:
    made = make("x")
    assert "description" not in made[made["type"]]


@pytest.mark.parametrize("make", [genie_space, knowledge_assistant, uc_connection, app, uc_function])
@pytest.mark.parametrize("value", ["", "  ", None, 5])
def test_a_hosted_tool_has_a_name(make: Any, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{make.__name__}"):
        make(value)


@pytest.mark.parametrize("name", ["top", "sales.top", "a.b.c.d", "a..c", "a..b.c", ".b.c", "a.b.", "a. .c"])
def test_the_name_of_a_uc_function_has_three_parts(name: str) -> None:
    with pytest.raises(ConfigurationError, match="give the full name"):
        uc_function(name)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "web_search"},
        {"type": "mcp", "server_label": "x", "require_approval": None, "headers": {"a": [1, {"b": None}]}},
        {"type": "genie_space", "genie_space": {"id": "1", "new_setting": True}, "more": 1},
        {"type": "function", "name": "f", "strict": True, "parameters": {"type": "object", "properties": {}}},
    ],
)
def test_a_dict_is_passed_on_as_it_is(given: dict[str, Any]) -> None:
    before = copy.deepcopy(given)
    declared, functions = read_tools([given])
    assert declared == [before]
    assert given == before
    assert functions == []


@pytest.mark.parametrize(
    "kind", ["genie_space", "uc_function", "knowledge_assistant", "uc_connection", "app"]
)
@pytest.mark.parametrize("settings", [{}, {"name": "x"}, {"id": None}])
def test_flat_settings_of_a_hosted_tool_are_refused(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"nested under '{kind}'"):
        read_tools([{"type": kind, **settings}])


@pytest.mark.parametrize("given", [{}, {"name": "f"}, {"type": None}, {"type": ""}, {"type": 5}])
def test_a_dict_without_a_type_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Every tool dict needs 'type'"):
        read_tools([given])


@pytest.mark.parametrize("given", [None, 5, "genie", ("type", "app")])
def test_what_is_no_tool_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="A tool is a dict, a LangChain tool or a callable; got"):
        read_tools([given])


# ---- client-side functions


def test_a_langchain_tool_becomes_a_function() -> None:
    declared, functions = read_tools([add])
    assert functions == [add]
    (sent,) = declared
    assert (sent["type"], sent["name"], sent["description"]) == ("function", "add", "Add two numbers.")
    assert sent["parameters"]["type"] == "object"
    assert sent["parameters"]["required"] == ["a"]
    assert set(sent["parameters"]["properties"]) == {"a", "b"}
    assert "function" not in sent


def test_a_callable_becomes_a_function_and_can_be_run() -> None:
    declared, (greeting, waiting) = read_tools([greet, wait_for])
    assert [entry["name"] for entry in declared] == ["greet", "wait_for"]
    assert declared[0]["description"] == "Greet somebody."
    assert declared[0]["parameters"]["required"] == ["name"]
    assert greeting.invoke({"name": "Ada"}) == "Ada"
    assert waiting.coroutine is wait_for  # type: ignore[attr-defined]


def test_a_function_without_arguments_is_an_object_without_properties() -> None:
    def now() -> str:
        """The time."""
        return ""

    (sent,), _ = read_tools([now])
    assert sent["parameters"] == {"type": "object", "properties": {}}


def test_arguments_are_described_by_their_model() -> None:
    class Arguments(BaseModel):
        query: str = Field(description="What to look for")

    @tool("look-up", args_schema=Arguments)
    def look_up(query: str) -> str:
        """Look something up."""
        return query

    (sent,), _ = read_tools([look_up])
    assert sent["name"] == "look-up"
    assert sent["parameters"]["properties"]["query"]["description"] == "What to look for"


def test_tools_keep_their_order() -> None:
    declared, _ = read_tools([greet, genie_space("1"), add, {"type": "new_kind"}])
    assert [entry.get("name", entry["type"]) for entry in declared] == [
        "greet",
        "genie_space",
        "add",
        "new_kind",
    ]


@pytest.mark.parametrize("name", ["", "a b", "a.b", "é", "f\n", "x" * 65, None, 5])
def test_the_name_of_a_function_is_one_that_can_be_sent(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="it must match") as refused:
        read_tools([{"type": "function", "name": name}])
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("name", ["f", "a-b_C9", "x" * 64])
def test_a_good_name_of_a_function_is_taken(name: str) -> None:
    read_tools([{"type": "function", "name": name}])


@pytest.mark.parametrize("parameters", [{}, {"type": "string"}, [], "object", {"properties": {}}])
def test_the_parameters_of_a_function_are_an_object(parameters: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a JSON Schema of type object, or be absent"):
        read_tools([{"type": "function", "name": "f", "parameters": parameters}])


@pytest.mark.parametrize(
    "tools",
    [[add, add], [greet, {"type": "function", "name": "greet"}], [{"type": "function", "name": "f"}] * 2],
)
def test_two_functions_do_not_share_a_name(tools: Any) -> None:
    with pytest.raises(ConfigurationError, match="Two functions are named"):
        read_tools(tools)


def test_hosted_tools_of_one_kind_may_be_many() -> None:
    spaces = [genie_space("1"), genie_space("2")]
    assert read_tools(spaces) == (spaces, [])


class Undocumented:
    def __call__(self, a: int) -> int:
        return a


@pytest.mark.parametrize("function", [lambda a: a, functools.partial(greet, "Ada"), Undocumented(), int])
def test_a_callable_that_cannot_be_a_tool_is_refused_when_the_graph_is_built(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a tool"):
        create_supervisor_graph(model="m", tools=[function])


# ---- approval


def test_connections_and_apps_may_need_approval() -> None:
    declared, _ = read_tools(
        [uc_connection("web"), genie_space("1"), app("my-app"), add, {"type": "app", "app": {}}]
    )
    assert approval_labels(declared) == ["web", "my-app", "app"]


# ---- MCP servers


def test_an_mcp_server_is_declared_in_openais_form_with_whatever_else_is_given() -> None:
    assert mcp("shop", "https://shop.example/mcp", allowed_tools=["buy"]) == {
        "type": "mcp",
        "server_label": "shop",
        "server_url": "https://shop.example/mcp",
        "allowed_tools": ["buy"],
    }
    assert mcp("shop") == {"type": "mcp", "server_label": "shop"}


@pytest.mark.parametrize("label", ["", "  ", None, 7])
def test_an_mcp_server_needs_a_label(label: Any) -> None:
    with pytest.raises(ConfigurationError, match="server_label"):
        mcp(label)


def test_calls_of_an_mcp_server_may_need_approval_unless_it_says_never() -> None:
    assert approval_labels([mcp("shop"), mcp("wiki", require_approval="never")]) == ["shop"]
