"""Reads that fail: what is repeated, what is given up, and what keeps the turn."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from databricks_supervisor.errors import (
    AuthenticationError,
    PermissionDeniedError,
    ServiceError,
    ServiceUnavailableError,
)
from tests.support.graph_harness import ANSWERED, DONE, RUNNING, harness
from tests.support.scripted_service import Answer, refusal

# ---- what may pass


PASSING = {
    **{str(status): refusal(status) for status in (408, 425, 429, 500, 502, 503, 504)},
    "dropped before the request was read": Answer(drop="unread"),
    "dropped before the answer": Answer(drop="unanswered"),
    "dropped in the answer": Answer(body=DONE.body, drop="halfway"),
    "garbage": Answer(body=b"<html>OK</html>"),
    "nothing": Answer(body=b""),
    "a list": Answer(body=[]),
    "no id": Answer(body={"status": "completed", "output": []}),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING.keys())
async def test_a_read_that_fails_is_repeated_with_longer_and_longer_pauses(answer: Answer) -> None:
    tries = 2 if answer.drop in ("unread", "unanswered") else 1  # Once more at once, on a fresh connection.
    async with harness(retrieves=[answer] * 4 * tries + [DONE]) as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    assert h.time.slept == [0.3, 0.5, 1.0, 2.0, 4.0]
    assert len(h.service.posts) == 1


async def test_a_success_resets_the_pauses() -> None:
    async with harness(retrieves=[refusal(503), refusal(503), RUNNING, refusal(503), DONE]) as h:
        await h.ask()
    assert h.time.slept[1:3] == [0.5, 1.0]
    assert h.time.slept[-1] == 0.5


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_obeyed(status: int) -> None:
    async with harness(retrieves=[refusal(status, headers={"Retry-After": "17"}), DONE]) as h:
        await h.ask()
    assert h.time.elapsed == pytest.approx(17.3)


async def test_retry_after_is_obeyed_as_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    async with harness(retrieves=[refusal(429, headers={"Retry-After": in_a_minute}), DONE]) as h:
        await h.ask()
    assert 50 < h.time.elapsed <= 60.3


async def test_a_read_that_takes_too_long_is_repeated() -> None:
    never = asyncio.Event()
    async with harness(retrieves=[Answer(until=never), DONE], retrieve_timeout_s=0.02) as h:
        await h.ask()
        assert await h.texts() == ANSWERED


async def test_a_service_that_stays_away_ends_the_run_and_keeps_the_turn() -> None:
    async with harness(retrieves=[refusal(503, "maintenance")], unreachable_after_s=120) as h:
        with pytest.raises(
            ServiceUnavailableError, match=r"could not be read for .*nothing was lost"
        ) as raised:
            await h.ask()
        assert "maintenance" in str(raised.value)
        assert 120 < h.time.elapsed < 160
        assert (await h.turn()).ended_at is None
        h.service.retrieves[:] = [DONE]
        await h.resume()
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 1


async def test_the_same_question_after_a_service_was_away_finds_its_job() -> None:
    async with harness(retrieves=[Answer(drop="unread")], unreachable_after_s=20) as h:
        with pytest.raises(ServiceUnavailableError):
            await h.ask()
        h.service.retrieves[:] = [DONE]
        await h.ask()
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 1


# ---- who asks


async def test_credentials_that_went_stale_are_refreshed_once_and_nobody_notices() -> None:
    async with harness(retrieves=[RUNNING, refusal(401), RUNNING, refusal(401), DONE]) as h:
        await h.ask()
        assert await h.texts() == ANSWERED
    assert h.identities == [None, None, None]


@pytest.mark.parametrize(
    ("status", "kind", "gets"), [(401, AuthenticationError, 2), (403, PermissionDeniedError, 1)]
)
@pytest.mark.parametrize("again", ["ask", "resume"])
async def test_who_may_not_read_the_job_keeps_the_turn(
    status: int, kind: type[ServiceError], gets: int, again: str
) -> None:
    async with harness(retrieves=[refusal(status, "no")] * gets + [DONE]) as h:
        with pytest.raises(kind, match="the thread still knows it") as raised:
            await h.ask()
        assert raised.value.status_code == status
        assert len(h.service.gets) == gets
        assert (await h.turn()).ended_at is None
        await (h.ask() if again == "ask" else h.resume())
        assert await h.texts() == ANSWERED
    assert len(h.service.posts) == 1
