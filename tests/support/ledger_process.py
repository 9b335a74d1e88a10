"""A process of the ledger's tests: ``python -m tests.support.ledger_process TASK URL…``.

It says ``ready``, waits for a line, does its task and prints a JSON answer.
"""

from __future__ import annotations

import tests.support.light_ledger_import  # noqa: F401

# isort: split

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from databricks_supervisor.ledger import EffectKey, SqlLedger
from databricks_supervisor.ledger.worker import is_dead, this_worker
from tests.support.ledgers import KEY, new_turn


def set_up(*urls: str) -> list[bool]:
    """Open the same turn in each of several empty databases."""

    async def open_turn(url: str) -> bool:
        ledger = SqlLedger(url)
        try:
            return (await ledger.open_turn(new_turn("turn")))[1]
        finally:
            await ledger.aclose()

    return [asyncio.run(open_turn(url)) for url in urls]


def claim(url: str) -> list[str]:
    """Claim fifty keys; gives those that this process got."""
    ledger = SqlLedger(url)

    async def run() -> list[str]:
        got = []
        for number in range(50):
            effect = await ledger.claim(EffectKey("turn", 0, "tool", str(number)), this_worker())
            if effect.mine:
                assert await ledger.record(effect.key, effect.attempt, {"by": this_worker()})
                got.append(effect.key.id)
        await ledger.aclose()
        return got

    return asyncio.run(run())


def loops(url: str) -> list[int]:
    """Use one ledger in two loops, one after the other, and in a thread's loop; close nothing."""
    ledger = SqlLedger(url)
    asyncio.run(ledger.open_turn(new_turn("turn")))
    attempts = []
    for _ in range(2):
        attempts.append(asyncio.run(ledger.claim(KEY, "w")).attempt)
    thread = threading.Thread(target=lambda: attempts.append(asyncio.run(ledger.claim(KEY, "w")).attempt))
    thread.start()
    thread.join()
    kept.append(ledger)
    return attempts


def fork(url: str) -> dict[str, Any]:
    """Use one ledger before a fork, in the child and again in the parent."""
    ledger = SqlLedger(url)
    asyncio.run(ledger.open_turn(new_turn("turn")))
    asyncio.run(ledger.claim(KEY, this_worker()))
    parent = this_worker()
    child = os.fork()
    if child == 0:
        found = asyncio.run(ledger.claim(KEY, this_worker()))
        asyncio.run(ledger.record(KEY, 1, {"child": this_worker(), "parent is dead": is_dead(found.worker)}))
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    effect = asyncio.run(ledger.get_effect(KEY))
    assert effect is not None
    assert effect.outcome is not None
    dead = is_dead(effect.outcome["child"])
    return {"parent": parent, "status": status, "child is dead": dead, **effect.outcome}


def claim_and_die(url: str) -> None:
    """Claim, record and be killed at once."""
    ledger = SqlLedger(url)

    async def run() -> None:
        await ledger.open_turn(new_turn("turn"))
        await ledger.claim(KEY, this_worker())
        await ledger.record(KEY, 1, {"response_id": "resp"})
        os.kill(os.getpid(), 9)

    asyncio.run(run())


def wait() -> str:
    """Say who it is."""
    return this_worker()


kept: list[SqlLedger] = []  # alive until the interpreter ends

TASKS: dict[str, Callable[..., Any]] = {
    task.__name__: task for task in (set_up, claim, loops, fork, claim_and_die, wait)
}

if __name__ == "__main__":
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    answer = TASKS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(answer), flush=True)  # noqa: T201
    sys.stdin.readline()
