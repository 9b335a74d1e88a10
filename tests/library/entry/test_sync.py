"""Sync callers: every coroutine of theirs runs on one thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig

from databricks_supervisor.entry.sync import run_sync, sync_and_async
from tests.support.graph_harness import CONFIG, harness


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """Also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


who = contextvars.ContextVar("who", default="nobody")


async def where() -> tuple[threading.Thread, asyncio.AbstractEventLoop]:
    return threading.current_thread(), asyncio.get_running_loop()


async def answer(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


# ---- where it runs


def test_it_runs_on_one_thread_with_one_loop_for_all_calls() -> None:
    thread, loop = run_sync(where())
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert run_sync(where()) == (thread, loop)


def test_callers_of_many_threads_share_it_and_get_their_own_answers() -> None:
    answers: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.update({n: run_sync(answer(n))})) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: n for n in range(20)}


async def test_it_can_be_called_where_a_loop_is_running() -> None:
    assert run_sync(answer(42)) == 42
    assert asyncio.get_running_loop() is not run_sync(where())[1]


def test_it_can_be_called_from_what_it_runs() -> None:
    async def outer() -> int:
        inner: int = run_sync(answer(20))  # Sync code of a tool, that knows nothing of loops.
        return inner + run_sync(middle())

    async def middle() -> int:
        deepest: int = run_sync(answer(22))
        return deepest

    assert run_sync(outer()) == 42


def test_it_can_be_called_from_what_it_runs_through_another_thread() -> None:
    async def outer() -> int:
        # As LangGraph runs the branches of a fan-out: in threads, in the caller's context.
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as executor:
            found: int = executor.submit(context.run, run_sync, answer(42)).result()
            return found

    assert run_sync(outer()) == 42


# ---- what it carries


def test_context_variables_go_in() -> None:
    async def read() -> str:
        return who.get()

    token = who.set("ada")
    try:
        assert run_sync(read()) == "ada"
    finally:
        who.reset(token)
    assert run_sync(read()) == "nobody"


def test_context_variables_go_in_from_within_too() -> None:
    async def read() -> str:
        return who.get()

    async def outer() -> str:
        who.set("bob")
        return run_sync(read())

    assert run_sync(outer()) == "bob"
    assert who.get() == "nobody"


def test_what_is_set_inside_stays_inside() -> None:
    async def change() -> None:
        who.set("eve")

    run_sync(change())
    assert who.get() == "nobody"


def test_errors_come_out_as_they_are() -> None:
    error = KeyError("why")

    async def fail() -> None:
        raise error

    with pytest.raises(KeyError) as raised:
        run_sync(fail())
    assert raised.value is error


def test_a_coroutine_that_cancels_itself_is_cancelled() -> None:
    async def fail() -> None:
        raise asyncio.CancelledError

    with pytest.raises(CancelledError):
        run_sync(fail())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_inside_reaches_its_caller_and_does_not_end_the_loop_for_the_others(
    kind: type[BaseException],
) -> None:
    async def leave() -> None:
        raise kind(3)

    async def nested() -> None:
        await asyncio.ensure_future(leave())

    for section in (leave, nested):
        with pytest.raises(kind):
            run_sync(section())
        assert run_sync(answer(42)) == 42


# ---- Ctrl-C


def test_ctrl_c_waits_until_what_runs_has_dealt_with_it() -> None:
    """Whoever interrupts the wait cancels the coroutine, and gets the interrupt once that has ended."""
    said: list[str] = []

    async def section() -> None:
        said.append("begun")
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            said.append("recorded")
            raise

    with pytest.raises(KeyboardInterrupt):
        run_sync(section())
    assert said == ["begun", "recorded"]
    assert run_sync(answer(42)) == 42


def test_ctrl_c_wins_over_how_the_section_ends() -> None:
    async def section() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("it ended badly") from None
        return "never"

    with pytest.raises(KeyboardInterrupt):
        run_sync(section())


def test_ctrl_c_before_anything_ran_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    async def section() -> None:
        ran.append("section")

    _, loop = run_sync(where())
    hand_over = loop.call_soon_threadsafe

    def interrupted(*given: Any, **more: Any) -> Any:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sync(section())
    assert loop.call_soon_threadsafe == hand_over
    assert run_sync(answer(42)) == 42
    assert ran == []


# ---- fork


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_loop_of_its_own() -> None:
    async def pid() -> int:
        return os.getpid()

    assert run_sync(pid()) == os.getpid()
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # A child that waits for its parent's thread waits for ever.
        os._exit(0 if run_sync(pid()) == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- nodes


async def test_a_node_has_two_faces() -> None:
    async def node(state: dict[str, int], config: RunnableConfig) -> dict[str, Any]:
        return {"n": state["n"] + 1, "thread": threading.current_thread()}

    both = sync_and_async("node", node)
    assert both.get_name() == "node"
    here = await both.ainvoke({"n": 1})
    there = await asyncio.to_thread(both.invoke, {"n": 1})
    assert here == {"n": 2, "thread": threading.current_thread()}
    assert (there["n"], there["thread"].name) == (2, "databricks-supervisor")


async def test_a_graph_answers_sync_callers() -> None:
    async with harness() as h:
        question = {"messages": [{"role": "user", "content": "How much?"}]}
        result = await asyncio.to_thread(h.graph.invoke, question, CONFIG)
        assert result["messages"][-1].text == "42"
        chunks = await asyncio.to_thread(
            lambda: list(h.graph.stream(question, CONFIG, stream_mode="updates"))
        )
    assert [name for chunk in chunks for name in chunk] == ["submit", "poll"]
    assert len(h.service.posts) == 2


async def test_sync_and_async_callers_of_one_graph_have_clients_of_their_own() -> None:
    async with harness() as h:
        await asyncio.to_thread(h.graph.invoke, {"messages": [("user", "one")]}, CONFIG)
        await h.ask("two")
        await asyncio.to_thread(h.graph.invoke, {"messages": [("user", "three")]}, CONFIG)
    assert h.identities == [None, None]
