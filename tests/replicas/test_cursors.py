"""A client that disconnects whenever it likes and comes back with a cursor hears the one sequence of events."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from tests.replicas.conftest import SEED, NewClient
from tests.replicas.responses_client import Event, ResponsesClient, many_items, new_thread, question, user
from tests.support.server_process import ServerProcess

READERS = 4
ITEMS = 40


@pytest.mark.parametrize("spread", [1, 3], ids=["one server", "three servers"])
def test_random_cursors_rebuild_the_sequence(
    spread: int, replicas: list[ServerProcess], new_client: NewClient
) -> None:
    rebuild(60, 3, [new_client(server) for server in replicas[:spread]])


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("spread", [1, 3], ids=["one server", "three servers"])
def test_a_thousand_random_cursors_rebuild_the_sequence(
    spread: int, replicas: list[ServerProcess], new_client: NewClient
) -> None:
    rebuild(1000, 30, [new_client(server) for server in replicas[:spread]])


def rebuild(cursors: int, duration_s: float, clients: list[ResponsesClient]) -> None:
    """Read a job of 40 items while it runs and when it is over, through that many connections."""
    chance = random.Random(SEED)
    thread = new_thread()
    asked = question(f"Cursors {thread}", items=many_items(ITEMS), duration_s=duration_s)
    body = {"input": [user(asked)], "context": {"conversation_id": thread}, "background": True}
    id = clients[0].ask(body)["id"]
    readers = [
        Reader(id, clients, random.Random(chance.random()), cursors // READERS) for _ in range(READERS)
    ]
    with ThreadPoolExecutor(READERS) as pool:
        heard = list(pool.map(Reader.read, readers))
    whole = clients[0].follow(id).numbered
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert sum(event["type"] == "response.output_item.done" for event in whole) == ITEMS
    assert whole[-1]["type"] == "response.completed"
    assert all(events == whole for events in heard)
    assert sum(reader.connections for reader in readers) >= cursors
    for one, other in pairwise(clients):
        assert one.get(id) == other.get(id)


class Reader:
    """Reads the events of one response in pieces, each through a connection of its own.

    Attributes:
        connections: How many it has had.
    """

    def __init__(self, id: str, clients: list[ResponsesClient], chance: random.Random, at_least: int) -> None:
        self.connections = 0
        self._id, self._clients, self._chance, self._at_least = id, clients, chance, at_least

    def read(self) -> list[Event]:
        """The events, put together."""
        heard: list[Event] = []
        over = False
        while not over or self.connections < self._at_least:
            # A client that was not sure of what it had kept asks from a little before.
            kept = len(heard) if self._chance.random() < 0.7 else self._chance.randint(0, len(heard))
            piece = self._piece(kept)
            known = heard[kept : kept + len(piece)]
            assert piece[: len(known)] == known
            heard += piece[len(known) :]
            over = heard[-1]["type"] == "response.completed"
        return heard

    def _piece(self, kept: int) -> list[Event]:
        self.connections += 1
        wanted = self._chance.randint(1, 12)
        numbers: set[int] = set()

        def enough(event: Event) -> bool:
            numbers.add(event["sequence_number"])
            return len(numbers - {kept - 1}) >= wanted

        client = self._chance.choice(self._clients)
        events = client.follow(self._id, kept - 1, until=enough).numbered
        # A keep-alive repeats the number before the first new event.
        return [event for event in events if event["sequence_number"] >= kept]
