"""What is read out of effects: ids of jobs by round, and decisions that stand."""

from __future__ import annotations

from typing import Any

import pytest

from databricks_supervisor.ledger import Effect, EffectKey, EffectKind, recorded_decisions, response_ids


def effect(kind: EffectKind, round_: int, id: str, outcome: dict[str, Any] | None) -> Effect:
    return Effect(EffectKey("turn", round_, kind, id), 1, "worker", 0.0, 0.0, outcome)


NO = {"approve": False, "by": "person"}
EFFECTS = [
    effect("submit", 0, "", {"response_id": "resp_1", "status": "queued"}),
    effect("decision", 0, "a", NO),
    effect("decision", 0, "b", None),
    effect("decision", 1, "a", {"unknown": "the process is gone"}),
    effect("tool", 0, "c", {"response_id": "not a job", "approve": True}),
    effect("submit", 1, "", {"unknown": "no answer"}),
    effect("submit", 2, "", {"response_id": "resp_3", "status": "queued"}),
]


def test_jobs_are_known_by_round_once_their_ids_are_recorded() -> None:
    assert response_ids(EFFECTS) == {0: "resp_1", 2: "resp_3"}


def test_decisions_stand_once_they_are_recorded() -> None:
    assert recorded_decisions(EFFECTS) == {(0, "a"): NO}


@pytest.mark.parametrize("outcome", [None, {}, {"unknown": "why"}, {"response_id": ""}])
def test_an_effect_without_such_an_outcome_has_neither(outcome: dict[str, Any] | None) -> None:
    assert effect("submit", 0, "", outcome).response_id is None
    assert effect("submit", 0, "", outcome).decision is None
