"""Approvals as the chat UI sends them, and what the service is told of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.replicas.chat_ui import Chat
from tests.replicas.concurrency import at_once
from tests.replicas.conftest import NewClient
from tests.replicas.responses_client import allow, new_thread, question, requests_in, text_of
from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.server_process import ServerProcess

NewChat = Callable[[], Chat]
RACES = 3

ONE = [{"name": "publish", "server_label": "reports", "arguments": {"a": 1}}]
TWO = [*ONE, {"name": "mail", "server_label": "reports", "arguments": {"to": "ann"}}]


@pytest.fixture
def new_chat(replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient) -> NewChat:
    """Begins a conversation at the first server."""
    return lambda: Chat(new_client(replicas[0]), service)


def test_allow_with_arguments_written_anew_and_no_label_continues_under_a_new_id(new_chat: NewChat) -> None:
    chat = new_chat()
    asked = f"Publish {chat.thread}"
    first = chat.say(question(asked, approvals=ONE, rounds=[{"reply": "Published."}]))
    (request,) = chat.requests
    assert request["server_label"] == "reports"
    assert [each["id"] for each in first["custom_outputs"]["pending"]] == [request["id"]]
    second = chat.press(request)
    assert text_of(second) == "Published."
    assert second["id"] != first["id"]
    assert second["custom_outputs"]["pending"] == []
    opened = ("user", asked)
    shown = ("request", request["id"], {"a": 1}, "reports")
    assert chat.inputs(asked) == [[opened], [opened, shown, ("approved", request["id"])]]


def test_an_answer_is_posted_while_another_request_is_open(new_chat: NewChat) -> None:
    chat = new_chat()
    asked = f"Publish and mail {chat.thread}"
    chat.say(question(asked, approvals=TWO, rounds=[{"reply": "Both."}]))
    one, two = chat.requests
    waiting = chat.press(one)
    assert [each["id"] for each in waiting["custom_outputs"]["pending"]] == [two["id"]]
    assert len(chat.inputs(asked)) == 1
    done = chat.press(two)
    assert text_of(done) == "Both."
    assert done["id"] == waiting["id"]
    decided = {("approved", one["id"]), ("approved", two["id"])}
    _, last = chat.inputs(asked)
    assert [each for each in last if each[0] != "request"][1:] == sorted(decided, key=last.index)
    assert len(last) == 5


def test_the_second_answer_may_come_first_and_through_another_server(
    new_chat: NewChat, replicas: list[ServerProcess], new_client: NewClient
) -> None:
    chat = new_chat()
    asked = f"Mail and publish {chat.thread}"
    chat.say(question(asked, approvals=TWO, rounds=[{"reply": "Both."}]))
    one, two = chat.requests
    chat.client = new_client(replicas[1])
    chat.press(two, approve=False)
    chat.client = new_client(replicas[2])
    assert text_of(chat.press(one)) == "Both."
    _, last = chat.inputs(asked)
    assert {("approved", one["id"]), ("refused", two["id"])} <= {each for each in last if len(each) == 2}


def test_a_refusal_is_sent_to_the_service(new_chat: NewChat) -> None:
    chat = new_chat()
    asked = f"Refuse {chat.thread}"
    chat.say(question(asked, approvals=ONE, rounds=[{"reply": "Not published."}]))
    (request,) = chat.requests
    assert text_of(chat.press(request, approve=False)) == "Not published."
    _, last = chat.inputs(asked)
    assert last[-1] == ("refused", request["id"])


def test_a_new_message_while_a_request_dangles_refuses_it_in_the_next_submission(new_chat: NewChat) -> None:
    chat = new_chat()
    asked, instead = f"Silence {chat.thread}", f"Instead {chat.thread}"
    chat.say(question(asked, approvals=ONE))
    (request,) = chat.requests
    assert text_of(chat.say(question(instead, reply="Of course."))) == "Of course."
    assert len(chat.inputs(asked)) == 1
    shown = ("request", request["id"], {"a": 1}, "reports")
    assert chat.inputs(instead) == [[("user", asked), shown, ("refused", request["id"]), ("user", instead)]]
    # The UI shows the request for ever; the next turn still tells of it once.
    chat.say(question(f"Then {chat.thread}", reply="Well."))
    (then,) = chat.inputs(f"Then {chat.thread}")
    assert [each[0] for each in then].count("request") <= 1
    assert then[-2:] == [("assistant", "Of course."), ("user", f"Then {chat.thread}")]


def test_a_refusal_that_comes_with_a_new_message_is_one_submission(new_chat: NewChat) -> None:
    chat = new_chat()
    asked, instead = f"Refuse for {chat.thread}", f"Something else {chat.thread}"
    chat.say(question(asked, approvals=ONE))
    (request,) = chat.requests
    chat.items.append(allow(request, approve=False))
    assert text_of(chat.say(question(instead, reply="As you wish."))) == "As you wish."
    assert len(chat.inputs(asked)) == 1
    (last,) = chat.inputs(instead)
    assert last[-2:] == [("refused", request["id"]), ("user", instead)]


def test_the_same_answer_at_the_same_moment_on_two_servers_is_one_decision(
    new_chat: NewChat, replicas: list[ServerProcess], new_client: NewClient
) -> None:
    clients = [new_client(server) for server in replicas[:2]]
    for _ in range(RACES):
        chat = new_chat()
        asked = f"Race {chat.thread}"
        chat.say(question(asked, approvals=ONE, rounds=[{"reply": "Decided."}]))
        (request,) = chat.requests
        chat.items.append(allow(request))
        found = at_once([partial(client.ask, chat.body()) for client in clients])
        assert found[0] == found[1]
        assert text_of(found[0]) == "Decided."
        assert clients[0].ask(chat.body()) == found[0]
        assert len(chat.inputs(asked)) == 2


@pytest.mark.parametrize("requests", [ONE, TWO], ids=["one request", "two requests"])
def test_of_answers_that_contradict_each_other_at_the_same_moment_one_stands_whole(
    requests: list[dict[str, Any]], new_chat: NewChat, replicas: list[ServerProcess], new_client: NewClient
) -> None:
    clients = [new_client(server) for server in replicas[:2]]
    for _ in range(RACES):
        chat = new_chat()
        asked = f"Contradict {chat.thread}"
        chat.say(question(asked, approvals=requests, rounds=[{"reply": "Decided."}]))
        answers = [[True, False][: len(requests)], [False, True][: len(requests)]]
        bodies = [chat.body(), chat.body()]
        for body, answer in zip(bodies, answers, strict=True):
            body["input"] += [
                allow(each, approve) for each, approve in zip(chat.requests, answer, strict=True)
            ]
        found = at_once([partial(client.post, body) for client, body in zip(clients, bodies, strict=True)])
        (winner,) = [index for index, answer in enumerate(found) if answer.status_code == 200]
        refused = found[1 - winner]
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "already_decided")
        assert "that one stands" in refused.json()["error"]["message"]
        assert text_of(found[winner].json()) == "Decided."
        _, last = chat.inputs(asked)
        decided = {each[1]: each[0] == "approved" for each in last if each[0] in ("approved", "refused")}
        assert [decided[each["id"]] for each in chat.requests] == answers[winner]
        # Whoever comes late is told, too.
        late = clients[0].post(bodies[1 - winner])
        assert (late.status_code, late.json()["error"]["code"]) == (409, "already_decided")
        assert clients[0].ask(bodies[winner]) == found[winner].json()
        assert len(chat.inputs(asked)) == 2


def test_an_answer_that_is_posted_again_follows_what_it_began(new_chat: NewChat) -> None:
    chat = new_chat()
    asked = f"Again {chat.thread}"
    chat.say(question(asked, approvals=ONE, rounds=[{"reply": "Once."}], duration_s=1))
    (request,) = chat.requests
    chat.items.append(allow(request))
    left = chat.client.stream(chat.body(), until=lambda event: True)
    again = chat.client.ask(chat.body())
    assert again["id"] == left.id
    assert text_of(again) == "Once."
    assert len(chat.inputs(asked)) == 2


def test_an_answer_alone_finds_its_thread(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    asked = f"Alone {new_thread()}"
    first = new_client(replicas[0]).ask(
        {"input": question(asked, approvals=ONE, rounds=[{"reply": "Found."}])}
    )
    (request,) = requests_in(first)
    second = new_client(replicas[2]).ask({"input": [allow(request)]})
    assert text_of(second) == "Found."
    assert second["custom_outputs"]["thread_id"] == first["custom_outputs"]["thread_id"]
    assert service.submissions(asked)["count"] == 2


@pytest.mark.parametrize("id", ["unknown", "call_0000"])
def test_an_answer_to_what_nobody_asked_is_refused(
    id: str, new_chat: NewChat, service: LocalSupervisor
) -> None:
    chat = new_chat()
    asked = f"Unasked {chat.thread}"
    chat.say(question(asked, approvals=ONE))
    chat.items.append(allow({"id": id}))
    refused = chat.client.post(chat.body())
    assert refused.status_code == 400
    assert chat.requests[0]["id"] in refused.json()["error"]["message"]
    assert len(chat.inputs(asked)) == 1


def test_the_turn_after_an_approval_tells_the_service_of_the_call_once(new_chat: NewChat) -> None:
    """The AI SDK provider sends request, answer, call and output, all with the one id."""
    chat = new_chat()
    asked, then = f"Provider {chat.thread}", f"And then {chat.thread}"
    chat.say(question(asked, approvals=ONE))
    (request,) = chat.requests
    chat.press(request)
    output = next(item for item in chat.response["output"] if item["type"] == "function_call_output")
    assert output["call_id"] == request["id"]
    at = next(index for index, item in enumerate(chat.items) if item.get("type") == "function_call_output")
    call = {"type": "function_call", "name": "publish", "arguments": "{}", "call_id": request["id"]}
    chat.items.insert(at, {**call, "id": request["id"]})
    assert text_of(chat.say(question(then, reply="Fine."))) == "Fine."
    (last,) = chat.inputs(then)
    assert [each for each in last if request["id"] in each] == [
        ("call", request["id"]),
        ("output", request["id"]),
    ]
    assert (last[0], last[-1]) == (("user", asked), ("user", then))


def test_an_unknown_submission_is_asked_about_over_the_wire(
    new_chat: NewChat, service: LocalSupervisor
) -> None:
    def ask(approve: bool) -> tuple[Chat, dict[str, Any], str]:
        chat = new_chat()
        asked = f"Unknown {chat.thread}"
        chat.say(question(asked, create_errors=["drop"], create_errors_accept=True, reply="Here."))
        (request,) = chat.requests
        assert (request["name"], request["server_label"]) == ("resubmit_job", "supervisor")
        return chat, chat.press(request, approve), asked

    chat, response, asked = ask(True)
    assert text_of(response) == "Here."
    assert chat.inputs(asked) == [[("user", asked)], [("user", asked)]]
    chat, response, asked = ask(False)
    assert response["status"] == "failed"
    assert "not sent again" in response["error"]["message"]
    assert chat.inputs(asked) == [[("user", asked)]]


def test_an_answer_to_an_unknown_submission_that_names_no_thread_never_reaches_another_one(
    replicas: list[ServerProcess], service: LocalSupervisor, new_client: NewClient
) -> None:
    client = new_client(replicas[0])
    names = [f"Nameless {new_thread()}" for _ in range(2)]
    first, second = [
        client.ask({"input": question(name, create_errors=["drop"], create_errors_accept=True)})
        for name in names
    ]
    (request,) = requests_in(first)
    answer = {"input": [allow(request)]}
    refused = client.post(answer)
    assert refused.status_code == 400
    assert "thread" in refused.json()["error"]["message"]
    assert service.submissions(names[1])["count"] == 1, "somebody else's job was submitted again"
    named = client.ask({**answer, "previous_response_id": first["id"]})
    assert named["custom_outputs"]["thread_id"] == first["custom_outputs"]["thread_id"]
    assert named["status"] == "completed"
    assert client.get(second["id"])["custom_outputs"]["pending"]
