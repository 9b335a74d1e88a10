"""Everything that can go wrong, by name.

    SupervisorError
    ├── ConfigurationError          settings that cannot work; raised before anything is sent
    ├── InvalidInputError           a question that cannot be asked; nothing was submitted
    ├── InvalidAnswerError          an answer to an interrupt that approves nothing; it is still pending
    ├── ThreadError                 the thread is not in the state that the call needs
    │   ├── NothingToResumeError    no checkpoint: ask the question again, the job is found
    │   ├── ThreadBusyError         another question of this thread is under way
    │   ├── ThreadMovedError        another turn came since the caller looked
    │   ├── TurnMismatchError       a turn id that belongs to another thread, position or question
    │   └── ForeignThreadError      the thread belongs to another graph
    ├── LedgerError                 the ledger cannot do its work
    │   ├── LedgerVersionError      written by a newer release
    │   └── TurnEndedError          a side effect was asked of a turn that is over
    ├── ServiceError                the service did not do what was asked
    │   ├── AuthenticationError     401: who are you? The turn is kept
    │   ├── PermissionDeniedError   403: you may not. The turn is kept
    │   ├── ServiceUnavailableError not reachable, or overloaded, beyond patience. The turn is kept
    │   ├── ServiceRetiredError     410, 501: this endpoint is gone. The turn is over
    │   └── RequestRejectedError    any other refusal: the request itself is wrong. The turn is over
    ├── OutcomeUnknownError         something was begun and nobody knows what became of it
    │   ├── SubmissionUnknownError  the POST of a job
    │   └── CallUnknownError        the run of a client-side function
    └── JobError                    the job ended without the answer; the turn is over
        ├── JobFailedError          status failed, or an error inside completed
        ├── JobCancelledError       status cancelled
        ├── JobIncompleteError      status incomplete and nothing was delivered
        ├── JobNotFoundError        404: expired, deleted, or another workspace
        ├── JobTimeoutError         still not done after the deadline
        └── TooManyRoundsError      approvals and function calls without end

Every message says what happened, what was kept and what to do next. None holds a credential:
texts of the service pass through :func:`.redaction.scrub` first.
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "CallUnknownError",
    "ConfigurationError",
    "ForeignThreadError",
    "InvalidAnswerError",
    "InvalidInputError",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "JobIncompleteError",
    "JobNotFoundError",
    "JobTimeoutError",
    "LedgerError",
    "LedgerVersionError",
    "NothingToResumeError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "RequestRejectedError",
    "ServiceError",
    "ServiceRetiredError",
    "ServiceUnavailableError",
    "SubmissionUnknownError",
    "SupervisorError",
    "ThreadBusyError",
    "ThreadError",
    "ThreadMovedError",
    "TooManyRoundsError",
    "TurnEndedError",
    "TurnMismatchError",
]


class SupervisorError(RuntimeError):
    """Base of every error that this package raises on purpose.

    A ``RuntimeError``: of other kinds LangGraph's server shows the class and hides the message.
    """


class ConfigurationError(SupervisorError, ValueError):
    """Settings that cannot work. Raised before anything is sent."""


class InvalidInputError(SupervisorError, ValueError):
    """The input is not a question. Nothing was submitted."""


class InvalidAnswerError(SupervisorError, ValueError):
    """An answer to an interrupt was malformed, stale or foreign. Nothing was approved; it is still pending."""


class ThreadError(SupervisorError):
    """The thread is not in the state that the call needs."""


class NothingToResumeError(ThreadError):
    """The thread has no checkpoint. Asking the question again finds its job, if there is one."""


class ThreadBusyError(ThreadError):
    """Another question of this thread is under way. The new one was not added to the thread."""


class ThreadMovedError(ThreadError):
    """A turn was to follow one that is not the thread's latest any more. Nothing was added to the thread."""


class TurnMismatchError(ThreadError):
    """A ``turn_id`` was given that belongs to another thread, position or question."""


class ForeignThreadError(ThreadError):
    """The thread's checkpoints were written by another graph."""


class LedgerError(SupervisorError):
    """The ledger cannot do its work."""


class LedgerVersionError(LedgerError):
    """The ledger's tables were made by a newer release of this package."""


class TurnEndedError(LedgerError):
    """A side effect was asked of a turn that is over (it was abandoned, or its thread deleted)."""


class ServiceError(SupervisorError):
    """The service did not do what was asked.

    Attributes:
        status_code: HTTP status of the answer, or ``None`` when there was none.
    """

    def __init__(self, message: str, *, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


class AuthenticationError(ServiceError):
    """401, also with fresh credentials. The turn is kept; resume it with valid ones."""


class PermissionDeniedError(ServiceError):
    """403. The turn is kept; resume it once access is granted."""


class ServiceUnavailableError(ServiceError):
    """Not reachable or overloaded for longer than patience lasts. The turn is kept."""


class ServiceRetiredError(ServiceError):
    """410 or 501: the endpoint no longer exists."""


class RequestRejectedError(ServiceError):
    """The service refused the request itself (a 4xx that proves that nothing was accepted)."""


class OutcomeUnknownError(SupervisorError):
    """Something was begun and its outcome is not known. It was not repeated."""


class SubmissionUnknownError(OutcomeUnknownError):
    """The POST of a job was sent, and what became of it is not known."""


class CallUnknownError(OutcomeUnknownError):
    """A client-side function was begun, and what became of it is not known."""


class JobError(SupervisorError):
    """The job ended without the answer. What it delivered is in the thread.

    Attributes:
        response_id: Id of the job at the service.
        status: Last status of the job.
    """

    def __init__(self, message: str, *, response_id: str | None = None, status: str | None = None) -> None:
        super().__init__(message)
        self.response_id = response_id
        self.status = status


class JobFailedError(JobError):
    """Status ``failed``, or an error inside ``completed``."""


class JobCancelledError(JobError):
    """Status ``cancelled``."""


class JobIncompleteError(JobError):
    """Status ``incomplete`` before anything was delivered."""


class JobNotFoundError(JobError):
    """404, also after a grace period: the job expired, was deleted, or is another workspace's."""


class JobTimeoutError(JobError):
    """The job was not done at its deadline."""


class TooManyRoundsError(JobError):
    """The turn went through more rounds of approvals and function calls than allowed."""
