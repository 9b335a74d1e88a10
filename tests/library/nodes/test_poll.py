"""Polling: when a job is read, and what of it is delivered."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

import pytest

from databricks_supervisor.errors import JobFailedError, SupervisorError, TurnEndedError
from databricks_supervisor.ledger import NewTurn
from tests.support.graph_harness import ANSWERED, CONFIG, DONE, QUEUED, RUNNING, harness
from tests.support.scripted_service import API_KEY, Answer, Item, message, response

# ---- when it polls


async def test_the_first_poll_comes_after_a_moment() -> None:
    async with harness() as h:
        await h.ask()
    assert h.time.slept == [0.3]
    assert len(h.service.gets) == 1


async def test_a_job_is_polled_until_it_ends() -> None:
    async with harness(retrieves=[QUEUED, RUNNING, RUNNING, DONE]) as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    assert len(h.service.gets) == 4
    assert [request.path for request in h.service.gets] == ["/v1/responses/resp_1"] * 4


async def test_the_whole_of_a_long_id_is_polled() -> None:
    long_id = "resp_" + "x" * 186
    async with harness(
        [response("queued", id=long_id)], [response("completed", message("42"), id=long_id)]
    ) as h:
        await h.ask()
        assert (await h.values())["messages"][-1].id == f"{long_id}:0"
    assert h.service.gets[0].path == f"/v1/responses/{long_id}"


async def test_a_fixed_cadence_is_kept() -> None:
    async with harness(retrieves=[RUNNING] * 3 + [DONE], polling=30) as h:
        await h.ask()
    assert h.time.elapsed == pytest.approx(91.0)


async def test_a_function_is_told_how_old_the_job_and_its_news_are() -> None:
    moments: list[tuple[float, float, int]] = []

    def cadence(moment: Any) -> float:
        moments.append((moment.age_s, moment.since_news_s, moment.polls))
        return 5.0

    first = response("in_progress", message("one"))
    both = response("completed", message("one"), message("two", "msg_2"))
    async with harness(retrieves=[RUNNING, first, first, both], polling=cadence) as h:
        await h.ask()
    assert moments == [(0, 0, 0), (5, 5, 1), (10, 0, 2), (15, 5, 3)]


async def test_auto_is_quick_at_first_and_slower_with_age() -> None:
    async with harness(retrieves=[RUNNING] * 120 + [DONE]) as h:
        await h.ask()
    assert h.time.slept[1] < 1
    assert h.time.slept[-1] > 5
    assert max(h.time.slept) <= 10


# ---- what is delivered


async def test_items_are_delivered_once_in_order_as_they_complete() -> None:
    one, two, three = message("one", "m1"), message("two", "m2"), message("three", "m3")
    retrieves = [
        response("in_progress", one),
        response("in_progress", one),
        response("in_progress", one, two),
        response("completed", one, two, three),
    ]
    async with harness(retrieves=retrieves) as h:
        question = {"messages": [{"role": "user", "content": "How much?"}]}
        updates = [chunk async for chunk in h.graph.astream(question, CONFIG, stream_mode="updates")]
        assert await h.texts() == ["How much?", "one", "two", "three"]
    said = [[m.text for m in chunk["poll"]["messages"]] for chunk in updates if "poll" in chunk]
    assert said == [["one"], ["two"], ["three"]]


@pytest.mark.parametrize("status", ["queued", "incomplete", "in_progress"])
async def test_nothing_is_delivered_past_the_first_unfinished_item(status: str) -> None:
    one, three = message("one", "m1"), message("three", "m3")
    begun, two = message("tw", "m2", status), message("two", "m2")
    retrieves = [response("in_progress", one, begun, three), response("completed", one, two, three)]
    async with harness(retrieves=retrieves) as h:
        question = {"messages": [{"role": "user", "content": "How much?"}]}
        states = [chunk async for chunk in h.graph.astream(question, CONFIG, stream_mode="values")]
        assert await h.texts() == ["How much?", "one", "two", "three"]
    said = [[m.text for m in state["messages"][1:]] for state in states]
    assert ["one"] in said
    assert not [texts for texts in said if "tw" in texts or texts == ["one", "three"]]


async def test_an_item_without_an_id_waits_until_it_has_one_or_the_job_ends() -> None:
    retrieves = [
        response("in_progress", message("one", None)),
        response("in_progress", message("one", "m1")),
        response("completed", message("one", "m1"), message("two", None, None)),
    ]
    async with harness(retrieves=retrieves) as h:
        await h.ask()
        assert await h.texts() == ["How much?", "one", "two"]


async def test_items_that_nobody_has_heard_of_are_delivered_too() -> None:
    odd: list[Any] = [{"type": "hologram", "id": "h1"}, None, "text", message("42")]
    async with harness(retrieves=[response("completed", *odd)]) as h:
        await h.ask()
        assert (await h.texts())[-1] == "42"
        assert (await h.job())["delivered"] == 4


@pytest.mark.parametrize("output", [None, {}, "rubbish", 7])
async def test_an_output_that_is_no_list_is_an_empty_one(output: Any) -> None:
    empty = Answer(body={"id": "resp_1", "status": "in_progress", "output": output})
    async with harness(retrieves=[empty, DONE]) as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    ended = Answer(body={"id": "resp_1", "status": "completed", "output": output})
    async with harness(retrieves=[ended]) as h:
        with pytest.raises(JobFailedError, match="completed without any output"):
            await h.ask()


def history(*said: tuple[str, str]) -> list[Item]:
    return [message(text, id) for text, id in said]


@pytest.mark.parametrize("echoes", [False, True])
@pytest.mark.parametrize("answer", ["43", "42"])
async def test_a_service_that_repeats_the_history_and_one_that_does_not_say_the_same(
    echoes: bool, answer: str
) -> None:
    creates = [response("queued", id="resp_1"), response("queued", id="resp_2")]
    before = history(("42", "msg_1")) if echoes else []
    retrieves = [
        DONE,
        response("in_progress", *before, id="resp_2"),
        response("completed", *before, message(answer, "msg_2"), id="resp_2"),
    ]
    async with harness(creates, retrieves) as h:
        await h.ask("How much?")
        await h.ask("And now?")
        assert await h.texts() == ["How much?", "42", "And now?", answer]
        assert [m.id for m in (await h.values())["messages"]][1::2] == ["resp_1:0", "resp_2:0"]


async def test_usage_is_kept() -> None:
    async with harness(retrieves=[response("completed", message("42"), usage={"total_tokens": 7})]) as h:
        await h.ask()
        assert (await h.job())["usage"] == {"total_tokens": 7}


async def test_a_body_that_did_not_change_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def counting(raw: Any, **options: Any) -> Any:
        if isinstance(raw, bytes):
            parsed.append(raw)
        return loads(raw, **options)

    loads = json.loads
    async with harness(retrieves=[RUNNING] * 50 + [DONE]) as h:
        monkeypatch.setattr("databricks_supervisor.client.responses.json.loads", counting)
        await h.ask()
    assert len(h.service.gets) == 51
    assert parsed.count(RUNNING.raw) == 1


# ---- others


async def test_nothing_is_written_for_a_turn_that_another_one_followed() -> None:
    async with harness(retrieves=[RUNNING]) as h:
        await h.ask_and_cancel()
        ledger, turn = await h.ledger(), await h.turn()
        await ledger.end_turn(turn.turn_id)
        await ledger.open_turn(NewTurn("other", "thread", "", None, "digest"))
        h.service.retrieves[:] = [DONE]
        with pytest.raises(TurnEndedError, match="another message followed it"):
            await h.resume()
        assert await h.texts() == ["How much?"]


async def test_cancelling_the_run_leaves_the_job_alone() -> None:
    async with harness(retrieves=[RUNNING]) as h:
        await h.ask_and_cancel()
        assert await h.waits_at() == ("poll",)
    assert h.service.cancelled == []


# ---- secrets


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 410, 429, 500])
async def test_credentials_that_the_service_repeats_go_nowhere(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"message": f"I got Authorization: Bearer {API_KEY}, that is {API_KEY}"}
    async with harness(retrieves=[RUNNING, Answer(status, body)], unreachable_after_s=5) as h:
        with pytest.raises(SupervisorError) as raised:
            await h.ask()
        said = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
        kept = repr([saved async for saved in h.saver.alist(CONFIG)])
    for text in (said, kept, caplog.text):
        assert API_KEY not in text
    assert "event=" in caplog.text or status not in (200, 429, 500)
