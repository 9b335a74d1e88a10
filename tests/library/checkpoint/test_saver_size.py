"""What a turn adds to the database."""

from __future__ import annotations

import secrets
from typing import Any

from tests.library.checkpoint.saver_places import Place, conversation
from tests.support.graph_harness import CONFIG, harness
from tests.support.scripted_service import message, response


async def added_by_a_turn(saver: Any, place: Place, polls: int) -> int:
    """Bytes that a question adds to a thread of 500 messages; its job has three items of 400 bytes."""
    items = [message(secrets.token_hex(200), f"msg_{number}") for number in range(3)]
    retrieves = [response("in_progress", *items[:1])] * polls
    retrieves += [response("in_progress", *items[:2])] * polls + [response("completed", *items)]
    async with harness(retrieves=retrieves, saver=saver, ledger=place.ledger()) as h:
        await h.graph.aupdate_state(CONFIG, {"messages": conversation(500)})
        before = place.size()
        await h.ask()
        assert len(await h.texts()) == 504
        assert len(h.service.gets) == 2 * polls + 1
        return place.size() - before


async def test_what_a_turn_adds_does_not_depend_on_the_conversation(place: Place) -> None:
    async with place.opened() as saver:
        added = await added_by_a_turn(saver, place, polls=1)
    assert added < 40_000  # of which 2,000 are what was said, twice


async def test_what_a_turn_adds_does_not_depend_on_the_polls(place: Place) -> None:
    added = []
    for polls in (1, 10):
        async with place.opened() as saver:
            added.append(await added_by_a_turn(saver, place, polls))
            await saver.adelete_thread("thread")
            await saver.ledger.delete_thread("thread")
    assert abs(added[1] - added[0]) < 500


async def test_without_it_a_turn_adds_the_whole_conversation_more_than_once(place: Place) -> None:
    async with place.opened() as saver:
        await saver.setup()  # the table is asked for its size
        added = await added_by_a_turn(saver.inner, place, polls=1)
    assert added > 4 * 250_000 if place.is_file else added > 2 * 250_000
