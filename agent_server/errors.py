"""Errors of the app itself, and the exit code of every error.

Exit codes of ``ask``:

    0    answered
    1    the job failed
    2    usage, bad input, bad setting, unknown thread, a thread of another graph
    3    the service could not be reached or refused; the thread can be resumed
    4    waits for a person's approval
    5    the outcome of a submission (or of a function call) is unknown and needs a person
    130  interrupted (Ctrl-C; 143 for SIGTERM); the job goes on
"""

from __future__ import annotations

import sqlite3
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes."""

    ANSWERED = 0
    FAILED = 1
    USAGE = 2
    SERVICE = 3
    WAITING = 4
    UNKNOWN = 5
    INTERRUPTED = 130
    TERMINATED = 143


class AppError(Exception):
    """The app cannot do what it was started for; the message is for its user."""

    exit = Exit.SERVICE


class UsageError(AppError):
    """What was asked for cannot be done."""

    exit = Exit.USAGE


class InvalidInputError(UsageError):
    """The question cannot be submitted."""


class NotReachableError(AppError):
    """The service, or its local stand-in, does not answer."""


class StateError(AppError):
    """The database of SUPERVISOR_STATE_URL cannot be used."""

    exit = Exit.USAGE


def exit_of(error: BaseException) -> Exit:
    """The exit code that an error stands for."""
    if isinstance(error, AppError):
        return error.exit
    if isinstance(error, sqlite3.Error | OSError):
        return Exit.SERVICE
    from databricks_supervisor import errors

    by_class: list[tuple[type[BaseException] | tuple[type[BaseException], ...], Exit]] = [
        (errors.OutcomeUnknownError, Exit.UNKNOWN),
        (errors.JobError, Exit.FAILED),
        ((errors.ServiceError, errors.LedgerError), Exit.SERVICE),
        (errors.SupervisorError, Exit.USAGE),
    ]
    return next((code for kind, code in by_class if isinstance(error, kind)), Exit.FAILED)
