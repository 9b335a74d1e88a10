"""Which tool calls a person must approve."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_supervisor.approval_policy import check_policy, needs_person
from databricks_supervisor.errors import ConfigurationError

names = st.sampled_from(["search", "send", "delete", "", "*"])
labels = st.sampled_from(["web", "mail", "", "*", "never"])
tool_names = st.fixed_dictionaries({"tool_names": st.lists(names, max_size=3)})
rules = st.sampled_from(["always", "never"]) | st.fixed_dictionaries(
    {}, optional={"always": tool_names, "never": tool_names}
)
policies = rules | st.dictionaries(st.sampled_from(["web", "mail", "*"]), rules, min_size=1)


@settings(deadline=None)
@given(policies)
def test_a_well_formed_policy_is_accepted(policy: Any) -> None:
    check_policy(policy)


@settings(deadline=None)
@given(policies, labels, names)
def test_every_well_formed_policy_decides_every_call(policy: Any, label: str, name: str) -> None:
    assert needs_person(policy, label, name) in (True, False)


@settings(deadline=None)
@given(labels, names)
def test_the_two_words_decide_everything(label: str, name: str) -> None:
    assert needs_person("always", label, name)
    assert not needs_person("never", label, name)


@pytest.mark.parametrize(
    ("policy", "label", "name", "needed"),
    [
        ({"never": {"tool_names": ["search"]}}, "web", "search", False),
        ({"never": {"tool_names": ["search"]}}, "web", "send", True),
        ({"always": {"tool_names": ["send"]}}, "web", "search", True),
        ({"always": {"tool_names": ["send"]}, "never": {"tool_names": ["send"]}}, "web", "send", True),
        ({"web": "never"}, "web", "search", False),
        ({"web": "never"}, "mail", "send", True),
        ({"web": "never"}, "", "search", True),
        ({"web": "always", "*": "never"}, "web", "search", True),
        ({"web": "always", "*": "never"}, "mail", "send", False),
        ({"web": {"never": {"tool_names": ["search"]}}, "*": "never"}, "web", "send", True),
        ({"web": {"never": {"tool_names": ["search"]}}, "*": "never"}, "web", "search", False),
        ({}, "web", "search", True),
        ({"web": {}}, "web", "search", True),
    ],
)
def test_the_most_careful_rule_that_names_a_call_decides_it(
    policy: Any, label: str, name: str, needed: bool
) -> None:
    check_policy(policy)
    assert needs_person(policy, label, name) is needed


@pytest.mark.parametrize(
    ("policy", "where"),
    [
        ("sometimes", "require_approval must be"),
        (None, "require_approval must be"),
        (True, "require_approval must be"),
        (["never"], "require_approval must be"),
        ({"web": "sometimes"}, r"require_approval\['web'\] must be"),
        ({"web": None}, r"require_approval\['web'\] must be"),
        ({"web": {"maybe": {}}}, r"require_approval\['web'\] must be"),
        ({"never": "search"}, "require_approval.never must be"),
        ({"never": ["search"]}, "require_approval.never must be"),
        ({"never": {}}, "require_approval.never must be"),
        ({"never": {"tool_names": "search"}}, "require_approval.never must be"),
        ({"always": {"tool_names": [1]}}, "require_approval.always must be"),
        ({"always": "never"}, "require_approval.always must be"),
        ({"never": {"tool_names": []}, "web": "never"}, r"require_approval\['never'\] must be"),
        ({"web": {"always": {"tool_names": None}}}, r"require_approval\['web'\].always must be"),
    ],
)
def test_a_malformed_policy_is_refused_where_it_is_wrong(policy: Any, where: str) -> None:
    with pytest.raises(ConfigurationError, match=where):
        check_policy(policy)
