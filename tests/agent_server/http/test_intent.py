"""What a request asks of a thread, whatever the client sends of the conversation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import BaseMessage

from agent_server.http.errors import ApiError
from agent_server.http.intent import AnswerApprovals, Reattach, StartTurn, intent_of
from databricks_supervisor.items import Item, items_from_message
from tests.support.conversations import (
    Thread,
    ask,
    call,
    output,
    request,
    response,
    said,
    sketch,
    system,
    user,
)

IMAGE = {
    "type": "message",
    "role": "user",
    "content": [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": "https://x/y.png"},
    ],
}


def two_turns() -> Thread:
    """One, an answer, two, an answer."""
    return Thread().turn(said("First."), asked=[user("One")]).turn(said("Second."), asked=[user("Two")])


def items_of(messages: list[BaseMessage]) -> list[Item]:
    return [item for message in messages for item in items_from_message(message)]


def asks_for(thread: Thread, *items: Item, **more: Any) -> list[Item]:
    """What is new in a request; nothing is replaced."""
    intent = thread.intent(ask(*items, **more))
    assert isinstance(intent, StartTurn)
    assert intent.removals == []
    return items_of(intent.messages)


def replaces(thread: Thread, *items: Item, **more: Any) -> tuple[list[Item], list[str]]:
    """What is new in a request, and what the replaced messages said."""
    intent = thread.intent(ask(*items, **more))
    assert isinstance(intent, StartTurn)
    by_id = {message.id: message.text for message in thread.snapshot.messages}
    return items_of(intent.messages), [by_id[id] for id in intent.removals]


def refusal(thread: Thread, *items: Item, **more: Any) -> str:
    with pytest.raises(ApiError) as caught:
        thread.intent(ask(*items, **more))
    assert caught.value.status == 400
    return caught.value.message


# ---- only what is new, or everything


def test_a_new_thread_takes_all_that_is_sent() -> None:
    everything = [system("Be kind"), user("Hi"), said("Hello"), user("One")]
    assert asks_for(Thread(), *everything) == everything


def test_only_what_is_new() -> None:
    assert asks_for(two_turns(), user("Three")) == [user("Three")]


@pytest.mark.parametrize("conversation", [False, True])
def test_the_whole_conversation(conversation: bool) -> None:
    thread = two_turns()
    assert asks_for(thread, *thread.shown, user("Three"), conversation=conversation) == [user("Three")]


def test_the_whole_conversation_with_a_system_message() -> None:
    thread = Thread().turn(said("First."), asked=[system("Be kind"), user("One")])
    assert asks_for(thread, *thread.shown, user("Two")) == [user("Two")]


def test_a_window_of_the_conversation() -> None:
    thread = two_turns().turn(said("Third."), asked=[user("Three")])
    for begin in range(len(thread.shown)):
        if any(item.get("role") == "user" for item in thread.shown[begin:]):
            assert asks_for(thread, *thread.shown[begin:], user("Four")) == [user("Four")]


def test_a_window_that_begins_like_the_conversation() -> None:
    thread = Thread()
    for text in ("Yes", "No", "Yes", "Why"):
        thread.turn(said(f"{text}?"), asked=[user(text)])
    assert asks_for(thread, *thread.shown[4:], user("More")) == [user("More")]


def test_the_same_text_again_is_a_new_question() -> None:
    thread = Thread().turn(said("First."), asked=[user("Yes")])
    assert asks_for(thread, user("Yes")) == [user("Yes")]
    assert asks_for(thread, *thread.shown, user("Yes")) == [user("Yes")]


def test_a_conversation_whose_answer_never_came_is_sent_as_a_whole() -> None:
    """A chat surface shows no answer of a job that failed, and so sends none."""
    thread = Thread().turn(asked=[user("One")])
    assert asks_for(thread, user("One"), user("Two"), conversation=True) == [user("Two")]


def test_images_are_compared_too() -> None:
    thread = Thread().turn(said("A cat."), asked=[IMAGE])
    assert asks_for(thread, *thread.shown, user("Why?")) == [user("Why?")]
    other = json.loads(json.dumps(IMAGE).replace("y.png", "z.png"))
    assert replaces(thread, other, said("A cat."), user("Why?"))[1] == ["What is it?", "A cat."]


def test_what_the_agent_said_is_never_taken_from_an_echo() -> None:
    thread = two_turns()
    lies = [
        {**item, "content": "I never said that"} if item.get("role") == "assistant" else item
        for item in thread.shown
    ]
    assert asks_for(thread, *lies, user("Three")) == [user("Three")]


def test_calls_of_the_agent_are_not_kept_twice() -> None:
    thread = Thread().turn(said("Wait."), call("c"), asked=[user("One")])
    assert asks_for(thread, call("c"), output("c")) == [output("c")]
    waiting = Thread().ask(user("One")).reply(request("a"))
    assert sketch(waiting.intent(ask(request("a"), response("a")))) == ("answer", [("a", True)], [])


# ---- the same again


def test_the_same_request_attaches_while_its_job_runs() -> None:
    thread = Thread().turn(said("First."), asked=[user("One")]).ask(user("Two"))
    assert thread.intent(ask(*thread.shown)) == Reattach()
    assert thread.intent(ask(*thread.shown, conversation=True)) == Reattach()


def test_an_end_that_was_not_delivered_is_handed_out() -> None:
    thread = Thread().turn(said("First."), asked=[user("One")], delivered=False)
    assert thread.intent(ask(user("One"))) == Reattach()
    assert thread.intent(ask(user("One"), conversation=True)) == Reattach()
    assert asks_for(thread, user("Two")) == [user("Two")]


def test_a_repeat_that_came_before_the_end_is_owed_that_end_and_one_that_came_after_is_asked_anew() -> None:
    thread = Thread().turn(said("First."), asked=[user("One")])
    assert thread.snapshot.turn is not None
    delivered_at = thread.snapshot.turn.delivered_at
    assert delivered_at is not None
    for items in ([user("One")], thread.shown[:-1]):
        early = replace(ask(*items, conversation=True), arrived_at=delivered_at - 0.1)
        assert thread.intent(early) == Reattach()
        late = replace(ask(*items, conversation=True), arrived_at=delivered_at + 0.1)
        assert isinstance(thread.intent(late), StartTurn)


def test_a_question_whose_turn_is_open_and_not_in_the_thread_yet_is_that_turn() -> None:
    thread = Thread().turn(said("First."), asked=[user("One")])
    before = thread.snapshot
    thread.ask(user("Two"))
    thread.snapshot = replace(before, turn=thread.snapshot.turn)
    intent = thread.intent(ask(user("Two")))
    assert isinstance(intent, StartTurn)
    assert intent.turn_id == "turn2"
    other = thread.intent(ask(user("Three")))
    assert isinstance(other, StartTurn)
    assert other.turn_id is None


def test_the_last_question_once_more_is_asked_anew() -> None:
    thread = two_turns()
    assert replaces(thread, *thread.shown[:3]) == ([user("Two")], ["Two", "Second."])


def test_an_earlier_question_once_more_replaces_what_followed() -> None:
    thread = two_turns()
    assert replaces(thread, user("One"), conversation=True) == (
        [user("One")],
        ["One", "First.", "Two", "Second."],
    )


def test_a_question_once_more_is_asked_without_the_outputs_that_followed_it() -> None:
    thread = Thread().turn(call("c"), asked=[user("One")]).turn(said("42."), asked=[output("c")])
    new, gone = replaces(thread, user("One"), conversation=True)
    assert (new, len(gone)) == ([user("One")], 4)
    new, gone = replaces(thread, *thread.shown[:3])
    assert (new, gone) == ([output("c")], ["42", "42."])


def test_a_conversation_that_ends_with_the_agent_asks_nothing() -> None:
    thread = two_turns()
    assert "ends with what the agent said" in refusal(thread, *thread.shown)


# ---- edits


@pytest.mark.parametrize(
    ("kept", "gone"), [(0, ["One", "First.", "Two", "Second."]), (2, ["Two", "Second."])]
)
def test_an_edited_question_replaces_what_followed(kept: int, gone: list[str]) -> None:
    thread = two_turns()
    edited = [*thread.shown[:kept], user("Edited")]
    if kept:
        assert replaces(thread, *edited) == ([user("Edited")], gone)
    rest = [*thread.shown[:kept], user("Edited"), said("Other."), user("More")]
    new, removed = replaces(thread, *rest)
    assert [item["role"] for item in new] == ["user", "assistant", "user"]
    assert removed == gone


def test_an_edit_keeps_the_outputs_that_it_brings_along() -> None:
    thread = Thread().turn(call("c", "hosted"), output("c"), said("42."), asked=[user("One")])
    new, _ = replaces(thread, user("Edited"), *thread.shown[1:], user("Two"))
    assert [item.get("type") for item in new] == [
        "message",
        "function_call",
        "function_call_output",
        "message",
        "message",
    ]


def test_an_older_response_is_gone_on_with() -> None:
    thread = two_turns()
    first = thread.snapshot.messages[1].id

    def belongs(message: BaseMessage) -> bool:
        return message.id in (thread.snapshot.messages[0].id, first)

    intent = intent_of(ask(user("Other")), thread.snapshot, of_previous=belongs)
    assert isinstance(intent, StartTurn)
    assert intent.removals == [message.id for message in thread.snapshot.messages[2:]]
    latest = intent_of(ask(user("Three")), thread.snapshot, of_previous=lambda message: not belongs(message))
    assert isinstance(latest, StartTurn)
    assert latest.removals == []


# ---- answers


def waiting(*ids: str) -> Thread:
    return Thread().ask(user("Publish")).reply(said("May I?"), *map(request, ids))


@pytest.mark.parametrize("approve", [True, False])
def test_an_answer_alone_or_after_the_whole_conversation(approve: bool) -> None:
    thread = waiting("a")
    expected: Any = ("answer", [("a", approve)], [])
    assert sketch(thread.intent(ask(response("a", approve)))) == expected
    assert sketch(thread.intent(ask(*thread.shown, response("a", approve)))) == expected
    careless = [
        {**item, "server_label": "", "arguments": '{ "to":"ann" }'} if "arguments" in item else item
        for item in thread.shown
    ]
    assert sketch(thread.intent(ask(*careless, response("a", approve), conversation=True))) == expected


def test_an_answer_in_part_and_then_the_rest() -> None:
    thread = waiting("a", "b")
    intent = thread.intent(ask(*thread.shown, response("a")))
    assert isinstance(intent, AnswerApprovals)
    assert sketch(intent) == ("answer", [("a", True)], [])
    thread.record(intent)
    assert isinstance(thread.intent(ask(*thread.shown, response("a"))), Reattach | AnswerApprovals)
    rest = thread.intent(ask(*thread.shown, response("a"), response("b", False)))
    assert isinstance(rest, AnswerApprovals)
    assert ("b", False) in sketch(rest)[1]
    assert sketch(thread.intent(ask(response("b", False)))) == ("answer", [("b", False)], [])


def test_an_answer_that_was_carried_out_is_followed_not_repeated() -> None:
    thread = waiting("a")
    answer = thread.intent(ask(response("a")))
    assert isinstance(answer, AnswerApprovals)
    thread.decide(answer, [response("a")]).reply(said("Published."))
    assert thread.intent(ask(response("a"))) == Reattach("a")
    assert asks_for(thread, *thread.shown, user("Thanks")) == [user("Thanks")]
    assert asks_for(thread, user("Thanks")) == [user("Thanks")]


def test_an_answer_that_contradicts_itself_is_refused() -> None:
    assert "both approved and refused" in refusal(waiting("a", "b"), response("a"), response("a", False))


def test_an_answer_to_nothing_is_refused() -> None:
    assert "'x' waits for an answer. Nothing is pending" in refusal(two_turns(), response("x"))
    assert "Pending: a, b." in refusal(waiting("a", "b"), response("x"))


def test_a_message_instead_of_an_answer_is_a_new_question() -> None:
    thread = waiting("a")
    assert asks_for(thread, user("Never mind")) == [user("Never mind")]
    assert asks_for(thread, *thread.shown, user("Never mind"), conversation=True) == [user("Never mind")]


def test_a_refusal_with_a_message_is_an_answer_with_more() -> None:
    thread = waiting("a")
    intent = thread.intent(ask(*thread.shown, response("a", False), user("Rather not")))
    assert sketch(intent) == ("answer", [("a", False)], [user("Rather not")])


def test_an_id_that_a_service_uses_again_is_asked_again() -> None:
    thread = waiting("a")
    answer = thread.intent(ask(response("a")))
    assert isinstance(answer, AnswerApprovals)
    thread.decide(answer, [response("a")]).reply(said("Published."))
    thread.ask(user("Again")).reply(request("a"))
    assert asks_for(thread, *thread.shown, user("No")) == [user("No")]
    assert sketch(thread.intent(ask(*thread.shown, response("a")))) == ("answer", [("a", True)], [])


# ---- outputs of the client's own functions


def called(*ids: str) -> Thread:
    return Thread().turn(*map(call, ids), asked=[user("One")])


def test_outputs_are_the_next_question() -> None:
    thread = called("c", "d")
    expected = [output("c"), output("d")]
    assert asks_for(thread, *expected) == expected
    assert asks_for(thread, *thread.shown, *expected) == expected
    assert asks_for(thread, *thread.shown, *expected, conversation=True) == expected


def test_outputs_must_be_complete_and_known() -> None:
    thread = called("c", "d")
    assert "No tool output found for function call d" in refusal(thread, output("c"))
    assert "call_id 'x'" in refusal(thread, output("x"))
    assert "No tool output found for function call d" in refusal(thread, *thread.shown, output("c"))


def test_outputs_that_are_known_are_left_out() -> None:
    thread = called("c").turn(said("42."), asked=[output("c")])
    assert asks_for(thread, *thread.shown, user("Two")) == [user("Two")]
    assert asks_for(thread, output("c"), user("Two")) == [user("Two")]


def test_calls_and_approvals_of_one_pause_are_answered_together() -> None:
    thread = Thread().ask(user("One")).reply(call("c"), request("a"))
    assert "waits for approval of a" in refusal(thread, output("c"))
    intent = thread.intent(ask(*thread.shown, response("a"), output("c")))
    assert sketch(intent) == ("answer", [("a", True)], [output("c")])


def test_a_call_without_an_output_is_no_obstacle_for_a_new_question() -> None:
    assert asks_for(called("c"), user("Never mind")) == [user("Never mind")]


# ---- a conversation, grown by a client that sends everything and by one that sends what is new


def careless(draw: st.DrawFn, items: list[Item]) -> list[Item]:
    """An echo as clients send it: with less, and written anew."""
    echo: list[Item] = []
    for item in items:
        if item.get("role") in ("user", "system") or item["type"] in (
            "function_call_output",
            "mcp_approval_response",
        ):
            echo.append(item)
        elif item["type"] == "message":
            text = item["content"][0]["text"]
            how = draw(st.sampled_from(["same", "text", "merged", "split", "nameless", "empty"]))
            content: Any = item["content"]
            if how == "text":
                content = text
            elif how == "split":
                content = [
                    {"type": "output_text", "text": text[:2]},
                    {"type": "output_text", "text": text[2:]},
                ]
            elif how == "empty":
                content = []
            echo.append({**item, "content": content, "id": None if how == "nameless" else item["id"]})
            if how == "merged" and len(echo) > 1 and echo[-2].get("role") == "assistant":
                echo[-2:] = [{**echo[-1], "content": text * 2}]
        elif item["type"] == "reasoning":
            if draw(st.booleans()):
                echo.append(item)
        elif draw(st.booleans()):
            echo.append(item)
        else:
            arguments = json.dumps(json.loads(item["arguments"]), separators=(",", ":"))
            echo.append(
                {**item, "arguments": arguments, "id": item["id"]}
                | ({"server_label": ""} if "server_label" in item else {})
            )
    return echo


@st.composite
def conversations(draw: st.DrawFn) -> None:
    """Grow one, and compare at every step."""
    thread = Thread()
    number = iter(range(1000))
    distinct = draw(st.booleans())

    def check(*new: Item) -> Any:
        """Both clients ask for the same."""
        narrow = thread.intent(ask(*new))
        echo = careless(draw, thread.shown)
        speaks = any(item.get("role") == "assistant" for item in echo) or not echo
        wide = thread.intent(ask(*echo, *new, conversation=not speaks or draw(st.booleans())))
        assert sketch(wide) == sketch(narrow)
        if isinstance(narrow, StartTurn):
            assert narrow.removals == []
            assert sketch(narrow)[1] == list(new)
        return draw(st.sampled_from([narrow, wide]))

    for _ in range(draw(st.integers(1, 5))):
        text = f"Text {next(number)}" if distinct else draw(st.sampled_from(["Yes", "No"]))
        new = [user(text)]
        if draw(st.integers(0, 4)) == 0:
            new.insert(0, system("Be kind"))
        thread.begin(check(*new), new)
        for _ in range(draw(st.integers(0, 3))):
            kinds = draw(st.lists(st.sampled_from(["message", "reasoning", "hosted"]), max_size=3))
            reply: list[Item] = []
            for kind in kinds:
                id = f"x{next(number)}"
                match kind:
                    case "message":
                        reply.append(said(f"Answer {id}", id))
                    case "reasoning":
                        summary = [{"type": "summary_text", "text": "Hm"}]
                        reply.append({"type": "reasoning", "id": id, "summary": summary})
                    case "hosted":
                        reply += [call(id, "hosted"), output(id)]
            ids = [f"y{next(number)}" for _ in range(draw(st.integers(1, 2)))]
            if draw(st.booleans()):
                thread.reply(*reply, *map(request, ids))
                answers = [response(id, draw(st.booleans())) for id in ids]
                thread.decide(check(*answers), answers)
            else:
                thread.reply(*reply, *map(call, ids))
                outputs = [output(id) for id in ids]
                thread.begin(check(*outputs), outputs)
        thread.reply(said(f"Answer {next(number)}"))


@settings(deadline=None)
@given(st.data())
def test_clients_that_send_everything_and_clients_that_send_what_is_new_ask_the_same(
    data: st.DataObject,
) -> None:
    data.draw(conversations())


@settings(deadline=None)
@given(st.data())
def test_a_request_that_is_sent_again_begins_nothing(data: st.DataObject) -> None:
    thread = Thread()
    for number in range(data.draw(st.integers(1, 4))):
        thread.ask(user(f"Text {number}"))
        for _ in range(2):
            again = thread.intent(ask(*thread.shown, conversation=True))
            assert again == Reattach()
        thread.reply(said("Hm."), delivered=False)
        assert thread.intent(ask(*thread.shown[:-1], conversation=True)) == Reattach()
        assert thread.snapshot.turn is not None
        thread.snapshot = replace(thread.snapshot, turn=replace(thread.snapshot.turn, delivered_at=10.0))
