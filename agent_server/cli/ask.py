"""`ask`: ask the agent a question from the command line, or go on with one that is under way.

Usage::

    uv run ask "Which product sold best last quarter?"
    uv run ask --thread amber-otter-3f9a1c                   # go on with it, or show the answer
    uv run ask --thread amber-otter-3f9a1c "And by region?"  # a follow-up
    uv run ask --json --approve-all "…"                      # for scripts

The job runs at the service. Ctrl-C, a closed terminal or a kill of this process does not stop it, and the
thread can be gone on with from anywhere that shares the state (SUPERVISOR_STATE_URL).

With ``--json`` every line of standard output is one JSON object with an ``event``:

    ==========  =====================================================================================
    thread      ``thread_id``; always the first line
    note        ``message``, for people
    progress    ``response_id``, ``status``, ``elapsed_s``, ``polls``, ``items``
    item        ``item`` (a Responses item), ``response_id``; each one once in a run
    question    what waits for a person: ``kind``, ``action_requests``, ``ids``, …
    error       ``code`` (the error's class), ``message``
    end         ``status`` (completed, waiting, failed, unknown, interrupted), ``thread_id``,
                ``response_id``, ``text`` (the whole answer); always the last line
    ==========  =====================================================================================

The exit codes are those of :mod:`agent_server.errors`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .options import Local, new_command

_EPILOG = """\
Exit codes: 0 answered · 1 the job failed · 2 bad input, bad setting, unknown thread · 3 the service could not
be reached or refused · 4 waits for an approval · 5 nobody knows whether the question arrived, a person must
decide · 130 interrupted, the job goes on.

Settings: SUPERVISOR_… in the environment or in .env, see .env.example."""

_app = new_command()


@_app.command(epilog=_EPILOG)
def ask(
    question: Annotated[
        str | None, typer.Argument(help="What to ask. Left out: go on with --thread.", show_default=False)
    ] = None,
    thread: Annotated[
        str | None, typer.Option("--thread", metavar="ID", help="Go on with this conversation.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    approve_all: Annotated[bool, typer.Option("--approve-all", help="Approve every tool call.")] = False,
    deny_all: Annotated[bool, typer.Option("--deny-all", help="Deny every tool call.")] = False,
    local: Local = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model that the service runs.", show_default=False)
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print the log on standard error.")] = False,
) -> None:
    """Ask the agent a question. The answer survives Ctrl-C, crashes and lost connections."""
    from .run import Request, run

    raise typer.Exit(run(Request(question, thread, as_json, approve_all, deny_all, local, model, verbose)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `ask` with these arguments, or those of the process; always ends with ``SystemExit``."""
    _app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="ask")


if __name__ == "__main__":
    main()
