"""What is new in a response, whatever the server repeats, and however the output comes to be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_supervisor.items import message_from_item
from databricks_supervisor.items.history import request_input
from databricks_supervisor.items.output import is_unfinished, new_items, pending_approvals, pending_calls
from tests.library.items.response_items import assistant, call, output, request, response, user
from tests.support.items_strategies import any_items

Item = dict[str, Any]

ECHOED = {"function_call", "function_call_output"}  # And messages of the assistant.


def sent_for(*items: Item) -> list[Item]:
    return request_input([message_from_item(item, "old", index) for index, item in enumerate(items)])


def is_echoed(item: Item, everything: bool = False) -> bool:
    return everything or item["type"] in ECHOED or item.get("role") == "assistant"


def echo_of(sent: list[Item], how: str, everything: bool = False) -> list[Item]:
    """The history as a server repeats it: with the same ids, with new ones, with ``null``, or with none."""
    echoed = copy.deepcopy([item for item in sent if is_echoed(item, everything)])
    for number, item in enumerate(echoed):
        item["status"] = "completed"
        if item["type"].startswith("mcp_"):
            continue
        if how == "new":
            item["id"] = f"echo_{number}"
        elif how == "null":
            item["id"] = None
        elif how == "none":
            item.pop("id", None)
    return echoed


HOW = ("same", "new", "null", "none")


class TestEcho:
    HISTORY = (
        user("Hi"),
        assistant("Hello!", id="m1"),
        user("Revenue?"),
        {**call("c1", '{"q": 1}'), "id": "fc_1"},
        output("c1", "3 rows"),
        assistant("42", id="m2"),
        user("And costs?"),
    )
    NEW = (
        {**call("c2", '{"q": 2}'), "id": "fc_2"},
        output("c2", "3 rows"),
        assistant("17", id="m3"),
    )

    @pytest.mark.parametrize("final", [False, True])
    @pytest.mark.parametrize("everything", [False, True])
    @pytest.mark.parametrize("how", HOW)
    def test_or_none_is_the_same(self, how: str, everything: bool, final: bool) -> None:
        sent, new = sent_for(*self.HISTORY), list(self.NEW)
        repeated = echo_of(sent, how, everything)
        assert new_items(repeated + new, sent, final=final) == new_items(new, sent, final=final) == new

    @pytest.mark.parametrize("how", HOW)
    def test_alone_is_nothing_new_while_running(self, how: str) -> None:
        sent = sent_for(*self.HISTORY)
        repeated = echo_of(sent, how)
        for length in range(len(repeated) + 1):
            assert new_items(repeated[:length], sent, final=False) == []

    def test_of_ids_that_were_cut(self) -> None:
        long = "m" * 100
        sent = sent_for(assistant("Hello!", id=long), call(long), output(long), user("Hi"))
        repeated = [assistant("Hello!", id=long), {**call(long), "id": "fc"}, output(long)]
        assert new_items(repeated, sent, final=True) == []

    def test_of_arguments_written_anew(self) -> None:
        sent = sent_for(call("c", '{"a": 1, "b": 2}'), output("c"), user("Hi"))
        repeated = [{**call("c", '{"b":2,"a":1}'), "id": None}, output("c")]
        assert new_items([*repeated, assistant("Yes.", id="m")], sent, final=True) == [
            assistant("Yes.", id="m")
        ]

    def test_of_a_part_by_its_ids(self) -> None:
        sent = sent_for(*self.HISTORY)
        repeated = [assistant("42", id="m2")]
        assert new_items([*repeated, *self.NEW], sent, final=True) == list(self.NEW)

    def test_of_messages_before_a_known_call_needs_no_more_proof(self) -> None:
        sent = sent_for(assistant("Hm."), call("c"), output("c"), assistant("Done."), user("Hi"))
        repeated = [assistant("Hm.", id="x"), {**call("c"), "id": "y"}, output("c")]
        assert new_items(repeated, sent, final=True) == []


class TestNothingNewIsSwallowed:
    YES = (user("Sure?"), assistant("Yes.", id="m1"), user("Really?"))

    def test_the_same_answer_again(self) -> None:
        again = assistant("Yes.", id="m2")
        sent = sent_for(*self.YES)
        assert new_items([again], sent, final=False) == []
        assert new_items([again], sent, final=True) == [again]
        for how in HOW:
            repeated = [*echo_of(sent, how), again]
            assert new_items(repeated, sent, final=True) == [again]
            assert new_items(repeated, sent, final=False) == [again]

    def test_the_same_answer_after_a_longer_history(self) -> None:
        history = (user("Sure?"), assistant("Yes."), user("How much?"), assistant("42"), user("Sure?"))
        again = [assistant("Yes.", id="m2"), assistant("As I said.", id="m3")]
        assert new_items(again, sent_for(*history), final=False) == again
        assert new_items(again, sent_for(*history), final=True) == again

    def test_an_answer_that_begins_like_an_old_one_while_it_grows(self) -> None:
        sent = sent_for(*self.YES)
        done = assistant("Bye.", id="m3")
        growing = {**assistant("Yes.", id="m2"), "status": "in_progress"}
        assert new_items([growing, done], sent, final=False) == []
        grown = [assistant("Yes. Really.", id="m2"), done]
        assert new_items(grown, sent, final=False) == grown

    def test_what_may_still_become_an_echo_is_waited_for(self) -> None:
        sent = sent_for(assistant("Yes."), user("Sure?"), assistant("No."), user("Sure?"))
        first, second = assistant("Yes.", id="m2"), assistant("Maybe.", id="m3")
        assert new_items([first], sent, final=False) == []
        assert new_items([first, {**second, "id": None}], sent, final=False) == []
        assert new_items([first, second], sent, final=False) == [first, second]

    def test_the_same_call_again(self) -> None:
        sent = sent_for(user("State?"), call("c1"), output("c1", "running"))
        again = [{**call("c2"), "id": "fc"}, output("c2", "running")]
        assert new_items(again, sent, final=False) == again
        assert new_items([*echo_of(sent, "null"), *again], sent, final=False) == again

    def test_the_answer_in_an_id_that_every_response_uses(self) -> None:
        sent = sent_for(user("Hi"), assistant("Hello!", id="msg_0"), user("How much?"))
        assert new_items([assistant("42", id="msg_0")], sent, final=True) == [assistant("42", id="msg_0")]

    def test_a_call_id_that_every_response_uses(self) -> None:
        sent = sent_for(user("Hi"), call("call_0", '{"q": 1}'), output("call_0"), user("More."))
        again = [{**call("call_0", '{"q": 2}'), "id": "fc"}, output("call_0")]
        assert new_items(again, sent, final=True) == again

    def test_the_result_of_an_approval_has_the_requests_id(self) -> None:
        sent = sent_for(user("Search."), request("x"), response("x"))
        result = [
            {**call("x", '{"query": "x"}', "web-search"), "id": "x"},
            output("x"),
            assistant("Found.", id="m"),
        ]
        for own in (result, result[1:]):
            for repeated in (
                [],
                [request("x"), response("x")],
                [user("Search."), request("x"), response("x")],
            ):
                assert new_items([*repeated, *own], sent, final=True) == own

    def test_another_request_for_approval(self) -> None:
        sent = sent_for(user("Search."), request("x" * 70), response("x" * 70))
        again = {**request("x" * 70 + "2"), "arguments": '{"query": "y"}'}
        assert new_items([again], sent, final=True) == [again]

    def test_what_has_no_id_or_is_unfinished_at_the_end(self) -> None:
        left = [assistant("17", id=None), {**call("c"), "status": "incomplete"}, None, "x", {"type": "odd"}]
        wrapped = [{"type": "unreadable", "value": value} for value in left[2:4]]
        assert new_items(left, [user("Hi")], final=True) == [*left[:2], *wrapped, left[4]]
        assert new_items(left, [user("Hi")], final=False) == []

    @pytest.mark.parametrize("rubbish", [None, "x", 3, {}, {"id": 1}])
    def test_rubbish_is_no_output(self, rubbish: Any) -> None:
        assert new_items(rubbish, [], final=True) == []

    def test_it_stops_at_the_first_unfinished_item(self) -> None:
        first, second = assistant("1", id="a"), assistant("2", id="b")
        for unfinished in (
            {**assistant("…", id="x"), "status": "in_progress"},
            {**assistant("…", id="x"), "status": "queued"},
            {**assistant("…", id="x"), "status": "incomplete"},
            assistant("…", id=None),
            assistant("…"),
            None,
        ):
            assert new_items([first, unfinished, second], [], final=False) == [first]

    def test_an_output_needs_no_id(self) -> None:
        assert not is_unfinished({**output("c"), "id": None})
        assert is_unfinished(call("c"))
        assert is_unfinished(None)


texts = st.sampled_from(["Yes.", "No.", "Hm."])


@st.composite
def turns(draw: st.DrawFn, first: int, closing: bool) -> list[Item]:
    """One or more steps of an agent; texts repeat, ids do not."""
    items: list[Item] = []
    for step in range(draw(st.integers(0 if closing else 1, 3))):
        number = first + step
        if draw(st.booleans()):
            items.append(
                {**call(f"c{number}", draw(st.sampled_from(["{}", '{"a": 1}']))), "id": f"fc{number}"}
            )
            items.append(output(f"c{number}", draw(texts)))
        else:
            items.append(assistant(draw(texts), id=f"m{number}"))
    if closing:
        items.append(assistant(f"Answer {first}.", id=f"m{first + 9}"))
    return items


@st.composite
def histories(draw: st.DrawFn) -> list[Item]:
    items: list[Item] = []
    for turn in range(draw(st.integers(0, 2))):
        items += [user("Go on."), *draw(turns(first=10 * turn, closing=draw(st.booleans())))]
        if draw(st.integers(0, 4)) == 0:
            items += [assistant("From another agent.")]
    return [*items, user("Go on.")]


@st.composite
def polls_of(draw: st.DrawFn, new: list[Item]) -> list[list[Any]]:
    """The output at each poll: items appear in order, unfinished or without an id, and finish in any order."""
    ages = [-draw(st.integers(0, 4)) * (index + 1) for index in range(len(new))]
    polls: list[list[Any]] = []
    rank = {"absent": 0, "unfinished": 1, "done": 2}
    while True:
        shown: list[Any] = []
        for index, item in enumerate(new):
            ages[index] += draw(st.sampled_from([3, 2, 1]))
            state = "absent" if ages[index] < 0 else "unfinished" if ages[index] < 3 else "done"
            if rank[state] == 0:
                break
            if state == "done":
                shown.append(item)
            elif item["type"] == "function_call_output":
                shown.append({**item, "status": "in_progress", "output": ""})
            elif draw(st.booleans()):
                shown.append({**item, "id": None})
            else:
                partial = {"content": []} if item["type"] == "message" else {"arguments": '{"'}
                shown.append({**item, **partial, "status": draw(st.sampled_from(["queued", "in_progress"]))})
        polls.append(shown)
        if shown == new:
            return polls


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_every_server_gives_the_same_items_in_every_order_of_events(data: st.DataObject) -> None:
    sent = sent_for(*data.draw(histories()))
    new = data.draw(turns(first=100, closing=True))
    polls = data.draw(polls_of(new))
    how, everything = data.draw(st.sampled_from(HOW)), data.draw(st.booleans())
    repeated = echo_of(sent, how, everything)
    # An echo appears at once, late or never; what a server repeats it repeats as a whole.
    appears = data.draw(st.integers(0, len(polls)))
    if _is_ambiguous(polls, sent):
        appears = data.draw(st.sampled_from([0, len(polls)]))
    delivered: list[Item] = []
    for number, shown in enumerate(polls):
        seen = new_items((repeated if number >= appears else []) + shown, sent, final=False)
        assert seen[: len(delivered)] == delivered[: len(seen)]
        delivered += seen[len(delivered) :]
    final = new_items((repeated if appears < len(polls) else []) + polls[-1], sent, final=True)
    assert final[: len(delivered)] == delivered
    if not (appears == len(polls) and _is_ambiguous(polls, sent)):
        assert final == new


def _is_ambiguous(polls: list[list[Any]], sent: list[Item]) -> bool:
    """Whether the new items begin by saying the whole history once more, which nobody can tell from an echo."""
    history = [item for item in sent if is_echoed(item)]
    if not history or any(item["type"] != "message" for item in history):
        return False
    said = [item.get("content") for item in polls[-1][: len(history)]]
    return said == [item["content"] for item in history]


@settings(deadline=None, max_examples=200)
@given(st.lists(any_items, max_size=5), st.lists(any_items, max_size=5), st.booleans())
def test_nothing_crashes_and_nothing_is_made_up(old: list[Any], found: list[Any], final: bool) -> None:
    sent = sent_for(*old)
    before = copy.deepcopy((found, sent))
    new = new_items(found, sent, final=final)
    wrapped = [item if isinstance(item, dict) else {"type": "unreadable", "value": item} for item in found]
    rest = iter(wrapped)
    assert all(any(item is other or item == other for other in rest) for item in new)
    assert (found, sent) == before
    assert (
        new_items(found, sent, final=False)
        == new_items(found, sent, final=True)[: len(new_items(found, sent, final=False))]
    )
    pending_approvals(new)
    pending_calls(new, {"f", ""})


class TestPending:
    def test_approvals_without_an_answer(self) -> None:
        items = [request("a"), request("b"), request("c"), response("b"), output("c"), request("a")]
        assert pending_approvals(items) == [request("a")]

    def test_approvals_without_an_id_cannot_be_answered(self) -> None:
        assert pending_approvals([{**request("a"), "id": None}]) == []

    def test_long_ids_are_not_mixed_up(self) -> None:
        one, other = "x" * 70 + "1", "x" * 70 + "2"
        assert len(pending_approvals([request(one), request(other), output(one)])) == 1
        assert len(pending_calls([call(one), call(other)], {"f"})) == 2

    def test_calls_of_declared_functions_without_an_output(self) -> None:
        items = [call("a"), call("b"), call("h", name="system__ai__python_exec"), output("b"), call("a")]
        assert pending_calls(items, {"f"}) == [call("a")]
        assert pending_calls(items, set()) == []

    def test_calls_that_were_cut_off_are_not_run(self) -> None:
        assert pending_calls([{**call("a"), "status": "incomplete"}], {"f"}) == []

    def test_both_at_once(self) -> None:
        items = [request("x"), call("c")]
        assert (pending_approvals(items), pending_calls(items, ["f"])) == ([request("x")], [call("c")])
