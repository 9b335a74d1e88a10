"""What one run, or one assistant in Studio, may set."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from databricks_supervisor import SupervisorContext, create_supervisor_graph
from databricks_supervisor.errors import ConfigurationError
from tests.support.graph_harness import harness
from tests.support.scripted_service import message, response


async def test_a_run_may_have_a_model_instructions_and_identity_of_its_own() -> None:
    async with harness(instructions="Be kind") as h:
        await h.ask(context={"model": "other", "instructions": "Be brief", "identity": "ada"})
        await h.ask("And now?")
    first, second = (request.body for request in h.service.posts)
    assert (first["model"], first["instructions"]) == ("other", "Be brief")
    assert (second["model"], second["instructions"]) == ("m", "Be kind")
    assert h.identities == ["ada", None]


async def test_a_run_may_have_a_cadence_of_its_own() -> None:
    running = [response("in_progress")] * 3
    async with harness(retrieves=[*running, response("completed", message("42"))]) as h:
        await h.ask(context=SupervisorContext(polling=7))
    assert h.time.elapsed == 1 + 3 * 7


@pytest.mark.parametrize(
    ("context", "field"),
    [
        ({"polling": "fast"}, "polling"),
        ({"model": 5}, "model"),
        ({"require_approval": "maybe"}, "require_approval"),
    ],
)
async def test_a_context_that_cannot_be_read_is_refused_by_name(context: dict[str, Any], field: str) -> None:
    async with harness() as h:
        with pytest.raises(ConfigurationError, match=rf"context\.{field}.*Nothing was submitted"):
            await h.ask(context=context)
        assert h.service.requests == []


async def test_a_context_that_cannot_work_is_refused() -> None:
    async with harness() as h:
        with pytest.raises(ConfigurationError, match="polling must be"):
            await h.ask(context={"polling": -2})
        assert h.service.requests == []


async def test_what_the_context_does_not_know_is_ignored() -> None:
    async with harness() as h:
        await h.ask(context={"thread_id": "x", "langgraph_auth_user": {"identity": "ada"}})
    assert h.identities == [None]


def test_the_schema_is_json_and_describes_every_field() -> None:
    schema = create_supervisor_graph(model="m").compile().get_context_jsonschema()
    assert schema is not None
    json.dumps(schema)
    assert set(schema["properties"]) == {"model", "instructions", "polling", "require_approval", "identity"}
    assert all(field["description"] for field in schema["properties"].values())


@pytest.mark.parametrize(
    "policy",
    [
        "always",
        "never",
        {"web": "never"},
        {"web": "never", "*": "always"},
        {"never": {"tool_names": ["search"]}},
        {"web": {"never": {"tool_names": ["search"]}}},
    ],
)
def test_a_policy_arrives_as_it_was_given(policy: Any) -> None:
    assert SupervisorContext(require_approval=policy).require_approval == policy
    again = SupervisorContext.model_validate_json(
        SupervisorContext(require_approval=policy).model_dump_json()
    )
    assert again.require_approval == policy


def test_a_context_is_frozen() -> None:
    with pytest.raises(ValidationError):
        SupervisorContext().model = "m"  # type: ignore[misc]


def test_overrides_are_by_field_name() -> None:
    assert SupervisorContext(model="m").overrides() == {
        "model": "m",
        "instructions": None,
        "polling": None,
        "require_approval": None,
        "identity": None,
    }
