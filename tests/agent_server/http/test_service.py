"""The service: what it need not read, and when a client is built anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agent_server.http.caller import Caller, thread_name, thread_user
from agent_server.http.responses import ResponseRef
from agent_server.http.service import ResponseService
from databricks_supervisor.ledger import Turn

TURN = Turn("turn", "ann/t", "", None, "digest", opened_at=7.0)


class Clients:
    """Remembers whose client is to be built anew."""

    def __init__(self) -> None:
        self.invalidated: list[str | None] = []

    def invalidate(self, identity: str | None) -> None:
        self.invalidated.append(identity)


def service(clients: Clients | None = None) -> ResponseService:
    """A service that has neither checkpoints nor ledger: whatever reads one fails."""
    parts = SimpleNamespace(clients=clients, settings=SimpleNamespace(retrieve_timeout_s=1.0))
    graph: Any = SimpleNamespace(parts=parts)
    ledger: Any = None
    return ResponseService(graph, ledger, model="m")


async def test_a_turn_that_the_request_itself_opened_is_queued_without_a_read() -> None:
    found = await service().retrieve(ResponseRef(TURN, 0, None, new=True))
    assert (found.id, found.status, found.created_at, found.thread) == ("resp_turn_0", "queued", 7.0, "t")


async def test_any_other_response_is_read() -> None:
    with pytest.raises(AttributeError):
        await service().retrieve(ResponseRef(TURN, 0, None))


def test_a_client_is_built_anew_for_a_new_token_alone() -> None:
    clients = Clients()
    service(clients).renew_client(Caller("ann", "ann"))
    assert clients.invalidated == []
    service(clients).renew_client(Caller("ann", "ann", has_new_token=True))
    assert clients.invalidated == ["ann"]


@pytest.mark.parametrize("user", ["", "ann@example.com", "a/b ü"])
def test_a_thread_has_one_owner_and_one_public_name(user: str) -> None:
    caller = Caller(user)
    thread_id = caller.thread("a/b ü")
    assert (thread_user(thread_id), thread_name(thread_id)) == (user, "a/b ü")
    assert caller.owns(thread_id)
    assert not Caller("somebody else").owns(thread_id)
