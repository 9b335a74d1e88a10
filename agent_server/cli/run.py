"""One run of the command line: checks first, then the graph, then the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import AppError, Exit, InvalidInputError, UsageError, exit_of
from ..settings import load_settings
from .options import load_env_file
from .view import Ending, View
from .view_json import JsonView

if TYPE_CHECKING:
    from .conversation import Conversation
    from .loop import Answers

SLOW_DETACH_S = 0.5
_ADJECTIVES = "amber bold brisk calm clear deft eager fair keen lucid quick vivid"
_NOUNS = "bison crane finch heron ibis lynx marten otter owl raven robin wren"


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of the command line; see :func:`.ask.ask`."""

    question: str | None = None
    thread: str | None = None
    as_json: bool = False
    approve_all: bool = False
    deny_all: bool = False
    local: bool | None = None
    model: str | None = None
    verbose: bool = False


class _Interrupted(BaseException):
    """A signal came before the graph ran."""

    def __init__(self, number: int) -> None:
        self.number = number


def new_thread_id() -> str:
    """A short id that a person can read aloud."""
    return f"{secrets.choice(_ADJECTIVES.split())}-{secrets.choice(_NOUNS.split())}-{secrets.token_hex(3)}"


def run(request: Request) -> int:
    """Run the command, and show what happens.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    _set_up_logging(request.verbose)
    thread_id = request.thread or new_thread_id()
    view = _view(request)
    ending = Ending(Exit.USAGE, thread_id)
    try:
        with _signals_raise():
            ending = _run(request, thread_id, view)
    except _Interrupted as interrupted:
        ending = Ending(Exit(128 + interrupted.number), thread_id)
    except KeyboardInterrupt:
        ending = Ending(Exit.INTERRUPTED, thread_id)
    except AppError as error:
        view.error(type(error).__name__, str(error))
        ending = Ending(error.exit, thread_id)
    except BrokenPipeError:
        # The reader of the output has ended, as `head` does; the job goes on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.INTERRUPTED
    view.end(ending)
    return ending.exit


def _run(request: Request, thread_id: str, view: View) -> Ending:
    if request.as_json:
        view.thread(thread_id)
    _check(request)
    load_env_file()
    settings = load_settings(model=request.model, local=request.local)
    if not request.as_json:
        view.thread(thread_id)

    from ..backend.backend import find_backend

    backend = find_backend(settings)
    client_factory = backend.start()
    if backend.local:
        why = "" if settings.local else "No workspace is configured. "
        view.note(f"{why}The local supervisor answers, with demonstration data.")
    elif backend.kind == "supervisor":
        view.note(f"Workspace: {backend.host}")
    else:
        view.note(f"It is asked: {backend.description}")
    view.busy("starting")
    # Everything heavy is imported after the first lines are printed, while the local supervisor starts.
    from ..graph import open_graph
    from .conversation import Conversation

    async def converse() -> Ending:
        detach = _Detach(view)
        try:
            async with open_graph(settings, backend, client_factory) as (graph, ledger):
                conversation = Conversation(graph, ledger, thread_id)
                return await _converse(conversation, request, thread_id, view, detach)
        except asyncio.CancelledError:
            if detach.number is None:
                raise
            return Ending(Exit(128 + detach.number), thread_id)

    return asyncio.run(converse())


async def _converse(
    conversation: Conversation, request: Request, thread_id: str, view: View, detach: _Detach
) -> Ending:
    from .conversation import job_id, last_exchange
    from .loop import run_thread

    try:
        result = await run_thread(conversation, request.question, view, _answers(request))
        code, thread = result.exit, result.thread
    except asyncio.CancelledError:
        if detach.number is None:
            raise
        code, thread = Exit(128 + detach.number), await conversation.read()
    except BrokenPipeError:
        raise
    except Exception as error:
        view.error(type(error).__name__, _words(error, verbose=request.verbose))
        code = exit_of(error)
        try:
            thread = await conversation.read()
        except Exception:
            return Ending(code, thread_id)
    return Ending(code, thread_id, job_id(thread), last_exchange(thread)[1], thread.exists)


def _check(request: Request) -> None:
    if request.approve_all and request.deny_all:
        raise UsageError("--approve-all and --deny-all contradict each other. Give one of them.")
    if request.question is None and request.thread is None:
        raise UsageError('Nothing to do: ask something, such as: uv run ask "Which product sold best?"')
    if request.question is not None and not request.question.strip():
        raise InvalidInputError("The question is empty. Nothing was submitted.")
    for name, given in (("question", request.question), ("--thread", request.thread)):
        if given is not None and any("\ud800" <= character <= "\udfff" for character in given):
            raise InvalidInputError(f"The {name} is not valid text (UTF-8). Nothing was submitted.")
    if request.thread is not None and not (request.thread.strip() and request.thread.isprintable()):
        raise UsageError("--thread: that is not a thread id.")


def _view(request: Request) -> View:
    if request.as_json:
        return JsonView()
    if sys.stdout.isatty():
        from .view_terminal import TerminalView

        return TerminalView()
    from .view_plain import PlainView

    return PlainView()


def _answers(request: Request) -> Answers:
    from .prompts import by_flag, prompt

    interactive = not request.as_json and sys.stdin.isatty() and sys.stdout.isatty()
    person = prompt() if interactive else None
    if request.approve_all or request.deny_all:
        return by_flag(approve=request.approve_all, otherwise=person)
    return person or by_flag(approve=None, otherwise=None)


def _words(error: Exception, *, verbose: bool) -> str:
    from databricks_supervisor.errors import SupervisorError
    from databricks_supervisor.redaction import scrub

    if verbose:
        sys.stderr.write(scrub("".join(traceback.format_exception(error))))
    if isinstance(error, SupervisorError | AppError):
        return str(error)
    return (
        f"{type(error).__name__}: {' '.join(scrub(str(error)).split())} "
        "This was not expected; the thread keeps what it has (--verbose tells more)."
    )


class _Detach:
    """What Ctrl-C and SIGTERM do while the graph runs: the first detaches, the second ends the process.

    To detach is to cancel the run, which still waits until a job that is being submitted is recorded.
    """

    def __init__(self, view: View) -> None:
        self.number: int | None = None
        self._view = view
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int) -> None:
        if self.number is not None:
            self._view.abandon()
            os._exit(128 + number)
        self.number = number
        if self._task is not None:
            self._task.cancel()
        text = "Waiting until the submission is recorded. Ctrl-C once more ends at once."
        self._loop.call_later(SLOW_DETACH_S, self._view.note, text)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Until the graph runs, a signal ends the command at once: there is nothing to wait for."""

    def interrupt(number: int, _frame: Any) -> NoReturn:
        raise _Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_up_logging(verbose: bool) -> None:
    """Show log lines and warnings of libraries only with --verbose."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
        return
    root.addHandler(logging.NullHandler())
    root.setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
