"""What the commands share."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

Local = Annotated[
    bool | None,
    typer.Option(
        "--local/--no-local",
        help="Use the local supervisor, or never. By default it is used when no workspace is configured.",
        show_default=False,
    ),
]


def new_command() -> typer.Typer:
    """A command line without decoration: errors in one line, help on -h too."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def load_env_file() -> None:
    """Put `.env` into the environment. If it cannot be read, the settings will say so."""
    from dotenv import load_dotenv

    with contextlib.suppress(OSError, UnicodeDecodeError):
        load_dotenv(".env")
