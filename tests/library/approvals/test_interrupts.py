"""What people are asked and what their answers mean: every form that counts, and every one that does not."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_supervisor.approvals.interrupts import (
    PendingAction,
    answer_schema,
    approval_action,
    interrupt_value,
    read_answer,
)
from databricks_supervisor.errors import InvalidAnswerError
from tests.support.agent_chat_ui import is_drawn_by_agent_chat_ui

YES: dict[str, Any] = {"approve": True, "by": "person"}
NO: dict[str, Any] = {"approve": False, "by": "person"}
APPROVE = {"type": "approve"}
REJECT = {"type": "reject"}
WHY = {"type": "reject", "message": "too dear"}

GOOD: list[tuple[list[str], Any, dict[str, Any]]] = [
    (["a"], True, {"a": YES}),
    (["a"], False, {"a": NO}),
    (["a"], {"decisions": [APPROVE]}, {"a": YES}),
    (["a"], {"decisions": [REJECT]}, {"a": NO}),
    (["a"], {"decisions": [WHY]}, {"a": {**NO, "reason": "too dear"}}),
    (["a", "b"], {"decisions": [APPROVE, WHY]}, {"a": YES, "b": {**NO, "reason": "too dear"}}),
    (["a", "b"], {"a": True}, {"a": YES}),
    (["a", "b"], {"b": WHY}, {"b": {**NO, "reason": "too dear"}}),
    (["a", "b"], {"b": False, "a": APPROVE}, {"a": YES, "b": NO}),
    (["decisions"], {"decisions": True}, {"decisions": YES}),
    (["", "b"], {"": True}, {"": YES}),
]

BAD: list[tuple[list[str], Any]] = [
    *(
        (["a"], answer)
        for answer in (None, 0, 1, "", "yes", "true", "approve", "a", 1.0, [], [True], {}, b"")
    ),
    *((["a", "b"], answer) for answer in (True, False, [True, True], "approve")),
    (["a", "b"], {"decisions": []}),
    (["a", "b"], {"decisions": [APPROVE]}),
    (["a", "b"], {"decisions": [APPROVE, APPROVE, APPROVE]}),
    (["a", "b"], {"decisions": [APPROVE, None]}),
    (["a", "b"], {"decisions": [APPROVE, {"type": "edit"}]}),
    (["a", "b"], {"decisions": [APPROVE, {"type": "Approve"}]}),
    (["a", "b"], {"decisions": [APPROVE, {}]}),
    (["a", "b"], {"decisions": [APPROVE, {**APPROVE, "message": "ok"}]}),
    (["a", "b"], {"decisions": [APPROVE, {**REJECT, "message": 7}]}),
    (["a", "b"], {"decisions": [APPROVE, {**REJECT, "reason": "no"}]}),
    (["a", "b"], {"decisions": "ab"}),
    (["a", "b"], {"decisions": {"0": APPROVE, "1": APPROVE}}),
    (["a", "b"], {"decisions": None}),
    (["a", "b"], {"decisions": [APPROVE, APPROVE], "a": True}),
    (["a", "b"], {"decisions": [APPROVE, APPROVE], "extra": 1}),
    (["a"], {"old": True}),
    (["a"], {"a": True, "old": True}),
    (["a"], {"a": "true"}),
    (["a"], {"a": 1}),
    (["a"], {"a": None}),
    (["a"], {"a": "approve"}),
    (["a"], {"a": {"approve": True}}),
    (["a"], {"a": [APPROVE]}),
    (["a"], {"a": {"type": ["approve"]}}),
    (["a"], {0: True}),
    (["a"], {"A": True}),
    (["a"], APPROVE),
]


@pytest.mark.parametrize(("ids", "answer", "decisions"), GOOD, ids=repr)
def test_a_good_answer_is_understood(ids: list[str], answer: Any, decisions: dict[str, Any]) -> None:
    assert read_answer(answer, ids) == decisions


@pytest.mark.parametrize(("ids", "answer"), BAD, ids=repr)
def test_any_other_answer_approves_nothing_and_says_why(ids: list[str], answer: Any) -> None:
    with pytest.raises(InvalidAnswerError, match="Nothing was approved") as error:
        read_answer(answer, ids)
    assert len(str(error.value)) > 40


def valid(answer: Any, ids: list[str]) -> bool:
    return bool(jsonschema.Draft202012Validator(answer_schema(ids)).is_valid(answer))


def test_the_schema_is_one() -> None:
    for ids in (["a"], ["a", "b"], ["decisions"]):
        jsonschema.Draft202012Validator.check_schema(answer_schema(ids))
        json.dumps(answer_schema(ids))


@pytest.mark.parametrize(("ids", "answer", "decisions"), GOOD, ids=repr)
def test_the_schema_takes_what_is_understood(ids: list[str], answer: Any, decisions: dict[str, Any]) -> None:
    assert valid(answer, ids)


@pytest.mark.parametrize(
    ("ids", "answer"), [(ids, a) for ids, a in BAD if a != b"" and a != {0: True}], ids=repr
)
def test_the_schema_takes_nothing_else(ids: list[str], answer: Any) -> None:
    assert not valid(answer, ids)


IDS = st.lists(st.sampled_from(["a", "b", "c", "decisions"]), min_size=1, max_size=3, unique=True)
DECISION = st.sampled_from(
    [True, False, APPROVE, REJECT, WHY, {}, None, 1, "approve", {"type": "edit"}, {"type": "approve", "x": 1}]
)
ANSWER = st.one_of(
    st.sampled_from([True, False, None, 1, "yes", [], {}]),
    st.fixed_dictionaries({"decisions": st.lists(DECISION, max_size=3)}),
    st.dictionaries(st.sampled_from(["a", "b", "c", "old", "decisions"]), DECISION, max_size=3),
)


@given(IDS, ANSWER)
def test_the_schema_and_the_reader_agree(ids: list[str], answer: Any) -> None:
    try:
        read_answer(answer, ids)
    except InvalidAnswerError:
        understood = False
    else:
        understood = True
    assert valid(answer, ids) == understood


@given(IDS, ANSWER)
def test_only_what_is_pending_is_ever_decided(ids: list[str], answer: Any) -> None:
    try:
        decisions = read_answer(answer, ids)
    except InvalidAnswerError:
        return
    assert decisions
    assert set(decisions) <= set(ids)
    assert all(type(d["approve"]) is bool and d["by"] == "person" for d in decisions.values())


# ---- what is asked


@pytest.mark.parametrize("kind", ["mcp_approval", "repeat_submission", "repeat_call"])
def test_every_kind_of_question_is_one_hitl_request(kind: Any) -> None:
    questions = [
        PendingAction("a", "search", {"q": 1}, "Search?", "web"),
        PendingAction("b", "pay", {}, "Pay?"),
    ]
    value = interrupt_value(kind, questions, "resp_1")
    assert is_drawn_by_agent_chat_ui(value)
    assert value["kind"] == kind
    assert value["ids"] == ["a", "b"]
    assert value["server_labels"] == ["web", ""]
    assert value["response_id"] == "resp_1"
    assert [r["name"] for r in value["action_requests"]] == [
        c["action_name"] for c in value["review_configs"]
    ]
    assert all(c["allowed_decisions"] == ["approve", "reject"] for c in value["review_configs"])
    assert "error" not in value
    json.dumps(value)


def test_it_says_why_the_last_answer_was_not_accepted() -> None:
    assert (
        interrupt_value("mcp_approval", [PendingAction("a", "f", {}, "?")], None, "because")["error"]
        == "because"
    )


@pytest.mark.parametrize(
    ("arguments", "args"),
    [
        ('{"q": "x"}', {"q": "x"}),
        ({"q": "x"}, {"q": "x"}),
        ("", {}),
        ("  ", {}),
        (None, {"arguments": None}),
        ("[1]", {"arguments": [1]}),
        ("7", {"arguments": 7}),
        ("not json", {"arguments": "not json"}),
        ('{"q": ', {"arguments": '{"q": '}),
    ],
)
def test_arguments_of_every_shape_can_be_shown(arguments: Any, args: dict[str, Any]) -> None:
    question = approval_action(
        {"type": "mcp_approval_request", "id": "a", "name": "f", "arguments": arguments}
    )
    assert question.args == args
    assert is_drawn_by_agent_chat_ui(interrupt_value("mcp_approval", [question], None))


def test_the_description_says_what_a_person_decides_on() -> None:
    question = approval_action(
        {"id": "a", "name": "search", "server_label": "web", "arguments": '{"q": "cats", "n": 3}'}
    )
    assert question.description == "The agent wants to call search on web with:\n  q: cats\n  n: 3"


def test_a_request_without_name_and_arguments_can_be_asked_about() -> None:
    question = approval_action({"id": "a"})
    assert question.name == "a tool"
    assert "a tool" in question.description


def test_a_very_long_argument_is_cut_in_the_description_and_whole_in_the_arguments() -> None:
    question = approval_action({"id": "a", "name": "f", "arguments": json.dumps({"q": "x" * 5000})})
    assert len(question.description) < 700
    assert len(question.args["q"]) == 5000
