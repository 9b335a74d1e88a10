"""The three ledgers give the same answers to the same questions, whatever the order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from databricks_supervisor.errors import LedgerError, ThreadError
from databricks_supervisor.ledger import EffectKey, EffectKind, Ledger, MemoryLedger, NewTurn, SqlLedger
from tests.support.ledgers import Clock

names = st.sampled_from(["a", "b"])
turn_ids = st.sampled_from(["t", "u", "v"])
attempts = st.integers(1, 3)
keys = st.tuples(turn_ids, st.integers(0, 1), st.sampled_from(["submit", "tool"]), st.sampled_from(["", "x"]))
outcomes = st.sampled_from(
    [{}, {"id": "é\x00"}, {"id": "é\x00", "n": 1.5}, {"unknown": True}, {"unknown": "?"}]
)

Key = tuple[str, int, EffectKind, str]


def test_the_three_ledgers_give_the_same_answers(tmp_path: Path, postgres_url: str) -> None:
    clock = Clock()
    ledgers: list[Ledger] = [
        SqlLedger(f"sqlite:///{tmp_path}/ledger.db", clock=clock),
        SqlLedger(postgres_url, clock=clock),
        MemoryLedger(clock=clock),
    ]
    examples = count()

    with asyncio.Runner() as runner:

        class Machine(RuleBasedStateMachine):
            def __init__(self) -> None:
                super().__init__()
                self.example = f"{next(examples)}-"  # names of its own, in ledgers that stay

            def compare(self, ask: Callable[[Ledger], Awaitable[Any]]) -> None:
                async def answer(ledger: Ledger) -> Any:
                    try:
                        return await ask(ledger)
                    except (LedgerError, ThreadError) as error:
                        return repr(error)

                async def all_answers() -> list[Any]:
                    return list(await asyncio.gather(*map(answer, ledgers)))

                first, *others = runner.run(all_answers())
                assert others == [first, first]

            def key(self, key: Key) -> EffectKey:
                turn_id, number, kind, name = key
                return EffectKey(self.example + turn_id, number, kind, name)

            @rule(
                turn_id=turn_ids,
                thread=names,
                position=names,
                digest=names,
                after=st.one_of(st.none(), st.just(""), turn_ids),
            )
            def open_turn(
                self, turn_id: str, thread: str, position: str, digest: str, after: str | None
            ) -> None:
                after = after and self.example + after
                turn = NewTurn(
                    self.example + turn_id, self.example + thread, position, 1, digest, ("m",), "me"
                )
                self.compare(lambda ledger: ledger.open_turn(turn, after))

            @rule(turn_id=turn_ids)
            def get_turn(self, turn_id: str) -> None:
                self.compare(lambda ledger: ledger.get_turn(self.example + turn_id))

            @rule(thread=names, position=names)
            def latest_turn(self, thread: str, position: str) -> None:
                self.compare(lambda ledger: ledger.latest_turn(self.example + thread, position))

            @rule(turn_id=turn_ids, step=st.sampled_from([None, 3]))
            def attach_turn(self, turn_id: str, step: int | None) -> None:
                self.compare(lambda ledger: ledger.attach_turn(self.example + turn_id, step))

            @rule(turn_id=turn_ids)
            def end_turn(self, turn_id: str) -> None:
                self.compare(lambda ledger: ledger.end_turn(self.example + turn_id))

            @rule(turn_id=turn_ids)
            def mark_delivered(self, turn_id: str) -> None:
                self.compare(lambda ledger: ledger.mark_delivered(self.example + turn_id))

            @rule(key=keys, worker=names)
            def claim(self, key: Key, worker: str) -> None:
                self.compare(lambda ledger: ledger.claim(self.key(key), worker))

            @rule(key=keys, attempt=attempts, worker=names)
            def take_over(self, key: Key, attempt: int, worker: str) -> None:
                self.compare(lambda ledger: ledger.take_over(self.key(key), attempt, worker))

            @rule(key=keys, attempt=attempts, outcome=outcomes)
            def record(self, key: Key, attempt: int, outcome: dict[str, Any]) -> None:
                self.compare(lambda ledger: ledger.record(self.key(key), attempt, outcome))

            @rule(key=keys, attempt=attempts)
            def release(self, key: Key, attempt: int) -> None:
                self.compare(lambda ledger: ledger.release(self.key(key), attempt))

            @rule(key=keys)
            def get_effect(self, key: Key) -> None:
                self.compare(lambda ledger: ledger.get_effect(self.key(key)))

            @rule(turn_id=turn_ids)
            def effects(self, turn_id: str) -> None:
                self.compare(lambda ledger: ledger.effects(self.example + turn_id))

            @rule(thread=names)
            def delete_thread(self, thread: str) -> None:
                self.compare(lambda ledger: ledger.delete_thread(self.example + thread))

            @rule(seconds=st.sampled_from([0.25, 40.0, -1.0]))
            def time_passes(self, seconds: float) -> None:
                clock.forward(seconds)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        for ledger in ledgers:
            runner.run(ledger.aclose())
