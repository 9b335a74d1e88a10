"""An approval that was sent once is never sent again, however the service reports what came of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from databricks_supervisor.items import Item, message_from_item
from databricks_supervisor.items.approved_runs import NOT_REPORTED, join_approved_runs
from databricks_supervisor.items.call_pairs import LOST, REFUSED
from databricks_supervisor.items.history import request_input
from databricks_supervisor.items.output import new_items, pending_approvals
from tests.library.items.response_items import assistant, call, output, user


def request(id: str, name: str = "buy", arguments: str = '{"item": "milk"}', label: str = "shop") -> Item:
    return {
        "type": "mcp_approval_request",
        "id": id,
        "name": name,
        "server_label": label,
        "arguments": arguments,
    }


def response(id: str, approve: bool = True) -> Item:
    return {"type": "mcp_approval_response", "id": id, "approval_request_id": id, "approve": approve}


def run(id: str | None, **fields: Any) -> Item:
    known = {"name": "buy", "server_label": "shop", "arguments": '{"item": "milk"}', "output": "bought"}
    return {"type": "mcp_call", "id": "mcp_1", "approval_request_id": id, **known, **fields}


def sent(*items: Item) -> list[Item]:
    return request_input([message_from_item(item, "resp_1", index) for index, item in enumerate(items)])


def types(items: list[Item]) -> list[str]:
    return [item["type"] for item in items]


BOUGHT = [
    {"type": "function_call", "call_id": "a1", "name": "buy", "arguments": '{"item": "milk"}'},
    {"type": "function_call_output", "call_id": "a1", "output": "bought"},
]
FIRST = [user("Buy milk, then mail Bob."), request("a1"), response("a1")]
NEXT = [request("a2", "mail", "{}"), response("a2")]
REPORTS: dict[str, list[Item]] = {
    "a run that names its approval": [run("a1")],
    "a run that does not": [run(None)],
    "a run with other spaces in its arguments": [run(None, arguments='{"item":"milk"}')],
    "a run without a server": [run(None, server_label=None)],
    "call and output under the approval's id": BOUGHT,
    "call and output under another id": [call("x", '{"item": "milk"}', "buy"), output("x", "bought")],
    "the output alone": [output("a1", "bought")],
}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_a_reported_run_is_sent_as_its_call_and_output(report: list[Item]) -> None:
    built = sent(*FIRST, *report, *NEXT)
    assert built[1:3] == BOUGHT
    assert types(built[3:]) == ["mcp_approval_request", "mcp_approval_response"]


def test_a_run_that_nobody_reports_is_not_sent_again() -> None:
    built = sent(*FIRST, *NEXT)
    assert (built[1]["call_id"], built[2]["output"]) == ("a1", NOT_REPORTED)
    assert types(built[3:]) == ["mcp_approval_request", "mcp_approval_response"]


def test_a_refusal_that_was_sent_is_not_sent_again() -> None:
    built = sent(FIRST[0], request("a1"), response("a1", approve=False), *NEXT)
    assert (built[1]["call_id"], built[2]["output"]) == ("a1", REFUSED)


def test_an_approval_that_was_not_sent_yet_is_sent() -> None:
    assert types(sent(*FIRST)[1:]) == ["mcp_approval_request", "mcp_approval_response"]
    both = sent(FIRST[0], request("a1"), request("a2", "mail"), response("a1"), response("a2"))
    assert types(both[1:]) == ["mcp_approval_request", "mcp_approval_request"] + ["mcp_approval_response"] * 2


def test_a_result_that_arrived_is_not_called_lost_in_the_next_turn() -> None:
    built = sent(*FIRST, run(None), assistant("Done."), user("Thanks."))
    assert built[1:3] == BOUGHT
    assert LOST not in json.dumps(built)


def test_a_message_of_another_agent_does_not_count_as_the_services() -> None:
    messages: list[BaseMessage] = [message_from_item(item, "resp_1", i) for i, item in enumerate(FIRST)]
    built = request_input([*messages, AIMessage("By the way, I noted that.")])
    assert "mcp_approval_response" in types(built)


def test_two_equal_runs_are_joined_in_order() -> None:
    asked = [user("Buy milk twice."), request("a1"), request("a2"), response("a1"), response("a2")]
    built = sent(
        *asked, run(None, output="one"), {**run(None, output="two"), "id": "mcp_2"}, assistant("Done.")
    )
    outputs = {item["call_id"]: item["output"] for item in built if item["type"] == "function_call_output"}
    assert outputs == {"a1": "one", "a2": "two"}


def test_a_run_that_failed_says_so() -> None:
    built = sent(*FIRST, run("a1", output=None, error={"code": 500, "message": "sold out"}), assistant("Hm."))
    assert built[2]["output"] == 'Error: {"code": 500, "message": "sold out"}'


def test_a_run_without_an_approval_is_a_call_of_its_own() -> None:
    built = sent(user("Find it."), run(None, name="search"), assistant("Found."))
    assert [item.get("call_id") for item in built[1:3]] == ["mcp_1", "mcp_1"]


def test_an_unfinished_run_is_left_out() -> None:
    assert sent(user("Find it."), run(None, output=None, status="in_progress")) == [user("Find it.")]


@pytest.mark.parametrize(
    "junk",
    [
        {},
        {"type": None},
        {"type": "mcp_call"},
        {"type": ["x"]},
        {**run("a1"), "approval_request_id": {}, "id": 7, "error": []},
    ],
)  # type: ignore[arg-type]
def test_junk_is_no_run(junk: Item) -> None:
    assert isinstance(join_approved_runs([(junk, True), (request("a1"), True), (junk, True)]), list)


# ---- any mixture of rounds, reports and echo, at a service that runs a tool whenever its input lets it


class EagerService:
    """Runs each approved call of its input that has no result there; counts the runs of each approval."""

    def __init__(self, steps: list[tuple[str, bool]]) -> None:
        self.steps = steps
        self.effects: list[str] = []

    def answer(self, sent_items: list[Item], round_: int, echo: bool) -> list[Item]:
        requests = {item["id"]: item for item in sent_items if item["type"] == "mcp_approval_request"}
        output_items: list[Item] = list(sent_items) if echo else []
        for item in sent_items:
            if item["type"] != "mcp_approval_response" or item["approval_request_id"] not in requests:
                continue
            asked = requests[item["approval_request_id"]]
            if item["approve"]:
                self.effects.append(asked["name"])
            output_items += self._report(asked, self.steps[round_ - 1][0], approved=item["approve"])
        if round_ < len(self.steps):
            return [*output_items, request(f"a{round_}", f"tool_{round_}", "{}")]
        return [*output_items, {**assistant("Done."), "id": f"m{round_}"}]

    def _report(self, asked: Item, vocabulary: str, *, approved: bool) -> list[Item]:
        id, name, arguments = asked["id"], asked["name"], asked["arguments"]
        text = "done" if approved else "refused"
        fields = {"name": name, "server_label": "shop", "arguments": arguments, "output": text}
        return {
            "named": [{"type": "mcp_call", "id": f"run_{id}", "approval_request_id": id, **fields}],
            "unnamed": [{"type": "mcp_call", "id": f"run_{id}", "approval_request_id": None, **fields}],
            "call": [{**call(id, arguments, name), "id": f"fc_{id}"}, output(id, text)],
            "new id": [{**call(f"x{id}", arguments, name), "id": f"fc_{id}"}, output(f"x{id}", text)],
            "output": [output(id, text)],
            "nothing": [],
        }[vocabulary]


vocabularies = st.sampled_from(["named", "unnamed", "call", "new id", "output", "nothing"])


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(vocabularies, st.booleans()), min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.integers(0, 2),
)
def test_each_decision_has_one_effect_at_most(
    steps: list[tuple[str, bool]], decisions: list[bool], more_turns: int
) -> None:
    service = EagerService(steps)
    messages: list[BaseMessage] = [HumanMessage("Do it all.", id="q")]
    for round_ in range(len(steps) + 1 + more_turns):
        if round_ > len(steps):
            messages.append(HumanMessage("And now?", id=f"q{round_}"))
        sent_items = request_input(messages)
        answered = service.answer(sent_items, min(round_, len(steps)), echo=steps[round_ % len(steps)][1])
        own = new_items(answered, sent_items, final=True)
        messages += [message_from_item(item, f"resp_{round_}", index) for index, item in enumerate(own)]
        for item in pending_approvals(own):
            decision = message_from_item(response(item["id"], decisions[round_ % 5]), f"resp_{round_}", 0)
            messages.append(decision.model_copy(update={"id": f"resp_{round_}:decision:{item['id']}"}))
    approved = [f"tool_{round_}" for round_ in range(len(steps)) if decisions[round_]]
    assert sorted(service.effects) == sorted(each for each in approved if each in service.effects)
    assert len(service.effects) == len(set(service.effects))
