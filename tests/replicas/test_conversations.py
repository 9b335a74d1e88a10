"""Conversations as clients send them: all of it or what is new, edited, regenerated; what the service is told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.replicas.chat_ui import BriefInput, Chat, brief
from tests.replicas.conftest import NewClient
from tests.replicas.responses_client import ResponsesClient, new_thread, question, text_of, user
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.server_process import ServerProcess


@pytest.fixture
def client(replicas: list[ServerProcess], new_client: NewClient) -> ResponsesClient:
    """A client of one of the servers."""
    return new_client(replicas[0])


def reply(text: str) -> str:
    """A question, and what is to be answered."""
    return question(text, reply=f"About {text}")


def turns(*texts: str) -> BriefInput:
    """What the service is to be told: these questions, each but the last with its answer."""
    told: BriefInput = []
    for text in texts:
        told += [("user", text), ("assistant", f"About {text}")]
    return told[:-1]


def test_all_of_it_or_what_is_new_tells_the_service_the_same(
    client: ResponsesClient, service: LocalSupervisor
) -> None:
    def whole(thread: str, texts: list[str]) -> None:
        chat = Chat(client, service, thread)
        for text in texts:
            chat.say(reply(text))

    def news(thread: str, texts: list[str]) -> None:
        for text in texts:
            client.ask({"input": [user(reply(text))], "custom_inputs": {"thread_id": thread}})

    def plain(thread: str, texts: list[str]) -> None:
        for text in texts:
            client.ask({"input": reply(text), "custom_inputs": {"session_id": thread}})

    def chained(thread: str, texts: list[str]) -> None:
        previous: dict[str, Any] = {}
        for text in texts:
            found = client.ask({"input": reply(text), **previous})
            previous = {"previous_response_id": found["id"]}

    for way in (whole, news, plain, chained):
        thread = new_thread()
        texts = [f"{number} {thread}" for number in ("one", "two", "three")]
        way(thread, texts)
        for count, text in enumerate(texts, 1):
            (job,) = service.submissions(text)["jobs"]
            assert brief(service.job(job["id"])["request"]["input"]) == turns(*texts[:count]), way.__name__


def test_an_edited_question_replaces_what_followed_it(
    client: ResponsesClient, service: LocalSupervisor
) -> None:
    chat = Chat(client, service)
    one, two, edited, three = (f"{word} {chat.thread}" for word in ("one", "two", "edited", "three"))
    chat.say(reply(one))
    before = len(chat.items)
    chat.say(reply(two))
    del chat.items[before:]
    assert text_of(chat.say(reply(edited))) == f"About {edited}"
    assert chat.inputs(edited) == [turns(one, edited)]
    chat.say(reply(three))
    assert chat.inputs(three) == [turns(one, edited, three)]
    assert len(chat.inputs(two)) == 1


def test_a_message_that_comes_alone_is_what_is_new(client: ResponsesClient, service: LocalSupervisor) -> None:
    """Also when a chat surface means it as an edited first question: what is kept is never taken out on a guess."""
    chat = Chat(client, service)
    one, two, other = (f"{word} {chat.thread}" for word in ("one", "two", "other"))
    chat.say(reply(one))
    chat.say(reply(two))
    chat.items.clear()
    chat.say(reply(other))
    assert chat.inputs(other) == [turns(one, two, other)]


def test_an_edited_question_with_a_dangling_request_behind_it(
    client: ResponsesClient, service: LocalSupervisor
) -> None:
    chat = Chat(client, service)
    one, two, edited = (f"{word} {chat.thread}" for word in ("one", "two", "edited"))
    chat.say(reply(one))
    before = len(chat.items)
    chat.say(question(two, approvals=[{"name": "publish", "server_label": "reports", "arguments": {}}]))
    assert chat.requests
    del chat.items[before:]
    assert text_of(chat.say(reply(edited))) == f"About {edited}"
    assert chat.inputs(edited) == [turns(one, edited)]


@pytest.mark.parametrize("earlier", [0, 1])
def test_an_answer_that_is_regenerated_is_a_new_job_with_the_same_input(
    earlier: int, client: ResponsesClient, service: LocalSupervisor
) -> None:
    chat = Chat(client, service)
    before = [f"before {chat.thread}"] * earlier
    for text in before:
        chat.say(reply(text))
    asked = f"regenerate {chat.thread}"
    first = chat.say(reply(asked))
    chat.items.pop()
    second = chat.post()
    assert second["id"] != first["id"]
    assert chat.inputs(asked) == [turns(*before, asked)] * 2
    chat.say(reply(f"then {chat.thread}"))
    assert chat.inputs(f"then {chat.thread}") == [turns(*before, asked, f"then {chat.thread}")]


def test_an_earlier_answer_that_is_regenerated_takes_away_what_followed(
    client: ResponsesClient, service: LocalSupervisor
) -> None:
    chat = Chat(client, service)
    one, two = f"one {chat.thread}", f"two {chat.thread}"
    chat.say(reply(one))
    chat.say(reply(two))
    del chat.items[1:]
    chat.post()
    assert chat.inputs(one) == [turns(one), turns(one)]
    chat.say(reply(f"then {chat.thread}"))
    assert chat.inputs(f"then {chat.thread}") == [turns(one, f"then {chat.thread}")]


def test_the_same_question_twice_in_a_conversation_is_two_turns(
    client: ResponsesClient, service: LocalSupervisor
) -> None:
    chat = Chat(client, service)
    asked = f"again {chat.thread}"
    chat.say(reply(asked))
    chat.say(reply(asked))
    assert chat.inputs(asked) == [turns(asked), turns(asked, asked)]


def test_what_the_agent_said_is_not_taken_from_a_client_s_echo(
    client: ResponsesClient, service: LocalSupervisor
) -> None:
    chat = Chat(client, service)
    one, two = f"one {chat.thread}", f"two {chat.thread}"
    chat.say(reply(one))
    chat.items[-1]["content"][0]["text"] = "Something that was never said."
    chat.say(reply(two))
    assert chat.inputs(two) == [turns(one, two)]


def test_a_conversation_that_the_server_has_never_seen_is_told_as_it_is(
    client: ResponsesClient, service: LocalSupervisor
) -> None:
    chat = Chat(client, service)
    one, two = f"one {chat.thread}", f"two {chat.thread}"
    chat.items = [user(one), {"role": "assistant", "content": f"About {one}"}]
    chat.say(reply(two))
    assert chat.inputs(two) == [turns(one, two)]


def test_an_older_response_is_gone_on_from_and_what_followed_it_is_replaced(
    client: ResponsesClient, service: LocalSupervisor
) -> None:
    thread = new_thread()
    one, two, other = (f"{word} {thread}" for word in ("one", "two", "other"))
    first = client.ask({"input": reply(one)})
    client.ask({"input": reply(two), "previous_response_id": first["id"]})
    client.ask({"input": reply(other), "previous_response_id": first["id"]})
    (job,) = service.submissions(other)["jobs"]
    assert brief(service.job(job["id"])["request"]["input"]) == turns(one, other)
