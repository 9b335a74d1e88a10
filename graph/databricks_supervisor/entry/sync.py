"""Sync callers: their coroutines run on one thread that has an event loop of its own.

``asyncio.run`` inside a node fails where a loop is running already, as in a notebook
(docs/langgraph.md: Sync callers).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig, RunnableLambda

T = TypeVar("T")

_lock = threading.Lock()
_portals: dict[int, asyncio.AbstractEventLoop] = {}
_inside: ContextVar[bool] = ContextVar("databricks_supervisor_portal", default=False)


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the portal's loop, in the caller's context, and wait for it.

    Interrupting the wait (Ctrl-C) cancels the coroutine and waits until it has dealt with that, so that a
    section that must not be cut is not cut.
    """
    loop, context = _loop(), copy_context()
    if _inside.get():
        # A coroutine on the portal's loop calls sync code that calls this function, maybe through other threads or
        # loops: waiting for the portal's loop here would be a deadlock.
        with ThreadPoolExecutor(1) as executor:
            return executor.submit(context.run, asyncio.run, coroutine).result()
    context.run(_inside.set, True)
    done: Future[T] = Future()
    started: list[asyncio.Task[T]] = []

    def start() -> None:
        task = loop.create_task(coroutine, context=context)
        started.append(task)
        task.add_done_callback(finish)

    def finish(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            done.cancel()
        elif (error := task.exception()) is not None:
            done.set_exception(error)
        else:
            done.set_result(task.result())

    def stop() -> None:
        for task in started:
            task.cancel()
        if not started:  # Interrupted before the loop got it.
            coroutine.close()
            done.cancel()

    try:
        loop.call_soon_threadsafe(start)
        return done.result()
    except (KeyboardInterrupt, SystemExit):
        loop.call_soon_threadsafe(stop)
        with suppress(CancelledError):
            done.exception()
        raise


def sync_and_async(
    name: str, node: Callable[[Any, RunnableConfig], Coroutine[Any, Any, dict[str, Any]]]
) -> RunnableLambda[Any, dict[str, Any]]:
    """A node for sync and async callers alike."""

    def sync(state: Any, config: RunnableConfig) -> dict[str, Any]:
        return run_sync(node(state, config))

    return RunnableLambda(sync, afunc=node, name=name)


def _loop() -> asyncio.AbstractEventLoop:
    pid = os.getpid()  # A forked child needs a thread of its own.
    with _lock:
        loop = _portals.get(pid)
        if loop is None:
            loop = _portals[pid] = asyncio.new_event_loop()
            threading.Thread(target=_serve, args=(loop,), name="databricks-supervisor", daemon=True).start()
        return loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        # asyncio stops the loop when a task raises one of these. The task's caller gets it; other tasks go on.
        with suppress(KeyboardInterrupt, SystemExit):
            loop.run_forever()
