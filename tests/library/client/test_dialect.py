"""What services want differently, as data; and which service an address tells."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from databricks_supervisor import create_supervisor_graph, mcp
from databricks_supervisor.client.dialect import DIALECTS, STATUSES, dialect_of, guess_dialect
from databricks_supervisor.client.responses import TERMINAL
from databricks_supervisor.errors import ConfigurationError
from databricks_supervisor.items import message_from_item
from databricks_supervisor.items.history import HistoryRules, request_input

ADDRESSES = {
    "https://api.openai.com/v1/": "openai",
    "https://mine.openai.azure.com/openai/v1/": "openai",
    "https://example.databricks.com/ai-gateway/mlflow/v1/": "databricks",
    "http://127.0.0.1:8321/v1/": "default",
    "https://api.openai.com.example/v1/": "default",
    "not an address": "default",
}


@pytest.mark.parametrize(("address", "name"), ADDRESSES.items())
def test_an_address_tells_the_service_only_where_that_is_safe(address: str, name: str) -> None:
    assert guess_dialect(address).name == name


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_found_by_its_name(name: str) -> None:
    assert (dialect_of(name).name, bool(dialect_of(name).title)) == (name, True)


@pytest.mark.parametrize("name", ["open-ai", "", None, 7, ["ogx"]])
def test_an_unknown_dialect_is_refused_with_the_known_ones(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="agentserver"):
        dialect_of(name)


def test_a_graph_refuses_an_unknown_dialect_when_it_is_built() -> None:
    with pytest.raises(ConfigurationError, match="dialect must be one of"):
        create_supervisor_graph(model="m", dialect="ogx2")


def test_other_words_for_a_status_mean_one_of_openais() -> None:
    assert set(STATUSES.values()) <= TERMINAL | {"queued", "in_progress"}
    assert not set(STATUSES) & (TERMINAL | {"queued", "in_progress"})


def test_only_a_service_that_takes_chosen_ids_gets_one_and_the_same_for_every_attempt() -> None:
    chosen = DIALECTS["agentserver"].headers("turn 0")["x-agent-response-id"]
    assert chosen == DIALECTS["agentserver"].chosen_id("turn 0")
    assert chosen != DIALECTS["agentserver"].chosen_id("turn 1")
    assert all(not each.headers("turn 0") for each in DIALECTS.values() if each.name != "agentserver")


def test_ids_that_a_service_does_not_want_are_left_out() -> None:
    items = [
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "ok"},
        {"type": "mcp_approval_request", "id": "a1", "name": "buy", "server_label": "s", "arguments": "{}"},
        {"type": "mcp_approval_response", "id": "a1", "approval_request_id": "a1", "approve": True},
    ]
    messages = [HumanMessage("Buy milk."), *(message_from_item(item, "resp_1", 0) for item in items)]
    built = request_input(messages, HistoryRules(item_ids=False, approval_response_ids=False))
    assert [item.get("id") for item in built] == [None, None, None, "a1", None]
    assert [item.get("id") for item in request_input(messages)] == [None, "fc_1", None, "a1", "a1"]


@pytest.mark.parametrize(("dialect", "refused"), [(None, True), ("databricks", True), ("openai", False)])
def test_inference_parameters_with_tools_are_refused_where_the_service_refuses_them(
    dialect: str | None, refused: bool
) -> None:
    tools = [mcp("shop", "https://shop.example/mcp")]
    settings: dict[str, Any] = {"parameters": {"temperature": 0}, "tools": tools, "dialect": dialect}
    if refused:
        with pytest.raises(ConfigurationError, match="temperature"):
            create_supervisor_graph(model="m", **settings)
    else:
        create_supervisor_graph(model="m", **settings)
