"""The question in a conversation, and its digest."""

from __future__ import annotations

import hashlib

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from databricks_supervisor.items import message_from_item
from databricks_supervisor.items.history import question, question_digest
from tests.library.items.response_items import request, response, user

IMAGE = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}


class TestQuestion:
    def test_is_what_follows_the_last_answer(self) -> None:
        messages = [
            HumanMessage("1"),
            AIMessage("2"),
            HumanMessage("3"),
            SystemMessage("4"),
            HumanMessage("5"),
        ]
        assert question(messages) == messages[2:]

    def test_is_everything_in_the_first_turn(self) -> None:
        messages = [SystemMessage("Be brief."), HumanMessage("Hi")]
        assert question(messages) == messages

    def test_follows_a_tools_output(self) -> None:
        messages = [HumanMessage("1"), ToolMessage("2", tool_call_id="c"), ChatMessage("3", role="user")]
        assert question(messages) == messages[2:]

    def test_leaves_decisions_out(self) -> None:
        decision = message_from_item(response("x"), "r", 1)
        ask = message_from_item(request("x"), "r", 0)
        messages = [HumanMessage("Search."), ask, decision, HumanMessage("And hurry.")]
        assert question(messages) == messages[3:]
        assert question(messages[:3]) == messages[:2]

    def test_is_from_the_last_person_on_if_an_agent_spoke_last(self) -> None:
        messages = [HumanMessage("1"), AIMessage("2"), HumanMessage("3"), AIMessage("4"), AIMessage("5")]
        assert question(messages) == messages[2:]
        assert question(messages[3:]) == messages[3:]

    @pytest.mark.parametrize(
        "messages",
        [
            [],
            [HumanMessage("")],
            [HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage("")],
            [RemoveMessage("x")],
            [message_from_item(response("x"), "r", 0)],
        ],
        ids=str,
    )
    def test_is_empty_where_nothing_is_said(self, messages: list[BaseMessage]) -> None:
        assert question(messages) == []


class TestDigest:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (HumanMessage("Hi"), HumanMessage("Hi", id="1", name="Ann", additional_kwargs={"a": 1})),
            (HumanMessage("Hi"), HumanMessage([{"type": "text", "text": "Hi", "id": "b"}])),
            (HumanMessage("Hi"), HumanMessage([{"type": "input_text", "text": "Hi"}])),
            (HumanMessage("Hi"), HumanMessage(["Hi", ""])),
            (HumanMessage("Hi"), ChatMessage("Hi", role="user")),
            (HumanMessage("Hi"), message_from_item({"role": "user", "content": "Hi"}, "r", 0)),
            (HumanMessage("Hi"), message_from_item(user("Hi"), "r", 7)),
            (HumanMessage([IMAGE]), HumanMessage([{**IMAGE, "id": "lc_1"}])),
            (
                HumanMessage([IMAGE]),
                HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]),
            ),
            (
                HumanMessage([IMAGE]),
                HumanMessage([{"type": "input_image", "image_url": "data:image/png;base64,aGk="}]),
            ),
        ],
        ids=repr,
    )
    def test_is_the_same_for_the_same_content(self, one: BaseMessage, other: BaseMessage) -> None:
        history = [HumanMessage("Hello"), AIMessage("Hello!")]
        assert question_digest([one]) == question_digest([*history, other])

    def test_a_question_that_a_parent_keeps_twice_is_one_question(self) -> None:
        once = [HumanMessage("Hi"), HumanMessage([IMAGE])]
        assert question_digest(once * 3) == question_digest(once)
        assert question_digest([*once, *once[:1]]) != question_digest(once)

    def test_differs_for_other_content(self) -> None:
        asked = [
            [HumanMessage("Hi")],
            [HumanMessage("Hi ")],
            [SystemMessage("Hi")],
            [HumanMessage([IMAGE])],
            [HumanMessage([IMAGE, "Hi"])],
            [HumanMessage([{**IMAGE, "base64": "aGo="}])],
            [HumanMessage("Hi"), AIMessage("Hello!")],
            [],
        ]
        assert len({question_digest(messages) for messages in asked}) == len(asked)

    def test_never_changes(self) -> None:
        """Turns in a ledger are found by it, also by the next release."""
        said = b'[["user",[{"text":"Hi","type":"text"}]]]'
        assert question_digest([HumanMessage("Hi")]) == hashlib.sha256(said).hexdigest()
