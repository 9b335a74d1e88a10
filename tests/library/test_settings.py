"""Settings that cannot work are refused when the graph is built, before anything is sent."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from langchain_core.tools import tool

from databricks_supervisor import SupervisorContext, create_supervisor_graph, genie_space, uc_connection
from databricks_supervisor.errors import ConfigurationError
from databricks_supervisor.settings import Settings
from tests.support.graph_harness import harness

NAN, INF = float("nan"), float("inf")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOLS = [genie_space("01ef")]


def refused(**settings: Any) -> str:
    """What the refusal of these settings says."""
    with pytest.raises(ConfigurationError) as error:
        create_supervisor_graph(
            **{"model": "m", "client_factory": lambda identity: pytest.fail("built"), **settings}
        )
    return str(error.value)


@pytest.mark.parametrize("model", ["", "  ", "\n", None, 5])
def test_a_model_has_a_name(model: Any) -> None:
    assert "model is empty. Name one" in refused(model=model)


@pytest.mark.parametrize("polling", [0, -1, -0.5, NAN, INF, True, False, "fast", "2", None, [2]])
def test_polling_is_auto_or_seconds_or_a_function(polling: Any) -> None:
    said = refused(polling=polling)
    assert "polling must be 'auto', a number of seconds above 0, or a function" in said
    assert repr(polling) in said


@pytest.mark.parametrize("polling", ["auto", 2, 0.01, 30.0, lambda moment: 1.0])
def test_good_polling_is_taken(polling: Any) -> None:
    create_supervisor_graph(model="m", polling=polling)


@pytest.mark.parametrize(
    "name", ["deadline_s", "create_timeout_s", "retrieve_timeout_s", "call_lifetime_s", "unreachable_after_s"]
)
@pytest.mark.parametrize("value", [0, -1, NAN, INF, True, "30", None])
def test_a_time_is_a_number_of_seconds(name: str, value: Any) -> None:
    assert f"{name} must be a number of seconds above 0; got {value!r}" in refused(**{name: value})


@pytest.mark.parametrize("value", [-1, NAN, INF, True, "0", None])
def test_a_grace_is_a_number_of_seconds(value: Any) -> None:
    assert "not_found_grace_s must be a number of seconds, 0 or more" in refused(not_found_grace_s=value)


def test_no_grace_is_a_grace() -> None:
    create_supervisor_graph(model="m", not_found_grace_s=0)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "25", None, NAN])
def test_rounds_are_counted(value: Any) -> None:
    assert "max_rounds must be a whole number, 1 or more" in refused(max_rounds=value)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("on_failure", "raise, message"),
        ("on_unknown_submission", "ask, resubmit, fail"),
        ("on_busy", "reject, wait, cancel"),
    ],
)
@pytest.mark.parametrize("value", ["", "Raise", "never", None, True, ["ask"]])
def test_a_choice_is_one_of_those_there_are(name: str, allowed: str, value: Any) -> None:
    assert f"{name} must be one of {allowed}; got {value!r}" in refused(**{name: value})


@pytest.mark.parametrize(
    "key", ["model", "input", "instructions", "tools", "background", "stream", "previous_response_id"]
)
def test_what_the_graph_sets_is_not_a_parameter(key: str) -> None:
    assert f"parameters may not contain {key}: the graph sets them" in refused(
        parameters={key: 1, "user": "a"}
    )


@pytest.mark.parametrize("key", ["temperature", "top_p", "max_output_tokens", "seed", "stop"])
@pytest.mark.parametrize("tools", [TOOLS, [add], [{"type": "new_kind"}]])
def test_inference_parameters_do_not_go_with_tools(key: str, tools: Any) -> None:
    said = refused(parameters={key: 0.5}, tools=tools)
    assert f"{key} cannot be given together with tools" in said
    assert "Leave it out" in said


def test_inference_parameters_go_without_tools_and_others_with_them() -> None:
    create_supervisor_graph(model="m", parameters={"temperature": 0.5})
    create_supervisor_graph(model="m", tools=TOOLS, parameters={"trace_destination": {"catalog_name": "c"}})


@pytest.mark.parametrize("value", [{1, 2}, object(), NAN, b"bytes"])
def test_what_cannot_be_sent_as_json_is_refused(value: Any) -> None:
    assert "parameters cannot be sent as JSON" in refused(parameters={"metadata": value})
    assert "tools cannot be sent as JSON" in refused(tools=[{"type": "new_kind", "new_kind": value}])


@pytest.mark.parametrize("policy", ["sometimes", True, None, 7, {"web": "sometimes"}, {"never": ["search"]}])
def test_an_approval_policy_is_one(policy: Any) -> None:
    assert "require_approval" in refused(require_approval=policy)


@pytest.mark.parametrize("tools", [[5], [None], "genie", {"type": "genie_space"}])
def test_tools_are_tools(tools: Any) -> None:
    assert "A tool is a dict, a LangChain tool or a callable" in refused(tools=tools)


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings(model="m").model = "n"  # type: ignore[misc]


# ---- whether a person may have to be asked


@pytest.mark.parametrize(
    ("tools", "policy", "may_ask"),
    [
        ([], "always", False),
        (TOOLS, "always", False),
        ([uc_connection("web")], "always", True),
        ([uc_connection("web")], "never", False),
        ([uc_connection("web")], {"web": "never"}, True),
    ],
)
def test_only_tools_that_need_approval_may_ask(tools: Any, policy: Any, may_ask: bool) -> None:
    assert Settings(model="m", tools=tuple(tools), require_approval=policy).may_ask is may_ask


async def test_a_graph_that_may_ask_does_not_start_without_a_checkpointer() -> None:
    async with harness(tools=[uc_connection("web")]) as h:
        graph = h.builder.compile()
        with pytest.raises(ConfigurationError, match="no checkpointer is in force"):
            await graph.ainvoke({"messages": [("user", "Hi")]})
        assert h.service.requests == []


# ---- what a run may override


def test_a_context_overrides_what_it_gives() -> None:
    settings = Settings(model="m", instructions="Be kind", polling=2.0)
    changed = settings.with_context(SupervisorContext(model="n", polling=10, identity="ada"))
    assert changed == dataclasses.replace(settings, model="n", polling=10.0, identity="ada")
    assert settings.model == "m"


def test_an_empty_context_changes_nothing() -> None:
    settings = Settings(model="m")
    assert settings.with_context(None) is settings
    assert settings.with_context(SupervisorContext()) is settings


@pytest.mark.parametrize(
    "context", [{"model": " "}, {"polling": -1}, {"polling": NAN}, {"require_approval": {"never": {}}}]
)
def test_an_override_that_cannot_work_is_refused(context: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Settings(model="m").with_context(SupervisorContext(**context))
