"""What a failed exchange means: for a POST whether anything was created, for a read whether it may pass."""

from __future__ import annotations

from .errors import (
    AuthenticationError,
    PermissionDeniedError,
    RequestRejectedError,
    ServiceError,
    ServiceRetiredError,
    ServiceUnavailableError,
    scrub,
)
from .refusals import Refusal, explain, is_unsent

__all__ = ["NotAccepted", "OutcomeUnknown", "Transient", "describe", "sort_create", "sort_retrieve", "unsent"]


class NotAccepted(Exception):
    """The POST certainly created nothing.

    Attributes:
        error: What to tell the caller.
        again: Whether the same POST may work in a moment (429, connection refused).
        retry_after_s: What the service asked to wait, in seconds.
        stale_credentials: Whether fresh credentials may help (401).
    """

    def __init__(
        self,
        error: ServiceError,
        *,
        again: bool = False,
        retry_after_s: float | None = None,
        stale_credentials: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.retry_after_s = retry_after_s
        self.stale_credentials = stale_credentials


class OutcomeUnknown(Exception):
    """The POST was sent, and nothing that came back says what became of it."""


class Transient(Exception):
    """A read failed in a way that may pass.

    Attributes:
        retry_after_s: What the service asked to wait, in seconds.
    """

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def sort_create(refusal: Refusal) -> NotAccepted | OutcomeUnknown:
    """What a refused POST proves."""
    code = refusal.status_code
    if code == 429:
        error = ServiceUnavailableError(
            f"The service is overloaded (429): {refusal.text} Nothing was submitted. "
            "Send the message again in a moment.",
            status_code=code,
        )
        return NotAccepted(error, again=True, retry_after_s=refusal.retry_after_s)
    if code in (408, 409) or (code >= 500 and code != 501):
        return OutcomeUnknown(f"the service answered {code}: {refusal.text}")
    return NotAccepted(_final(refusal, "Nothing was submitted."), stale_credentials=code == 401)


def sort_retrieve(refusal: Refusal) -> Transient | ServiceError:
    """Whether a refused read may pass."""
    code = refusal.status_code
    if code in (408, 409, 425, 429) or (code >= 500 and code != 501):
        return Transient(f"the service answered {code}: {refusal.text}", refusal.retry_after_s)
    return _final(refusal, "The job was not touched and the thread still knows it.")


def _final(refusal: Refusal, kept: str) -> ServiceError:
    code = refusal.status_code
    if code == 401:
        return AuthenticationError(
            f"The service does not accept the credentials (401): {refusal.text} {kept} "
            "Check the token or log in again, then resume the thread.",
            status_code=code,
        )
    if code == 403:
        return PermissionDeniedError(
            f"The service refuses access (403): {refusal.text} {kept} "
            "Ask for the permission it names, then resume the thread.",
            status_code=code,
        )
    if code in (410, 501):
        return ServiceRetiredError(
            f"This endpoint is retired ({code}): {refusal.text} {kept} Any service that speaks background "
            "Responses can take its place: an agent on Databricks Apps, OpenAI, or a server of your own "
            "(give create_supervisor_graph another client_factory).",
            status_code=code,
        )
    return RequestRejectedError(
        f"The service refused the request ({code}): {refusal.text} {kept}{explain(refusal.text)}",
        status_code=code,
    )


def unsent(error: Exception, host: str) -> NotAccepted:
    """What to tell of an exchange that failed before it was sent."""
    if not is_unsent(error):
        return NotAccepted(ServiceUnavailableError(describe(error)))
    if is_unsent(error) == "credentials":
        return NotAccepted(
            AuthenticationError(
                f"No credentials could be obtained: {describe(error)}. Nothing was submitted. "
                "Log in again or check the token, then send the message again."
            ),
            stale_credentials=True,
        )
    return NotAccepted(
        ServiceUnavailableError(
            f"Cannot reach {scrub(host)}: {describe(error)}. Nothing was submitted. "
            "Check the address and the network, then send the message again."
        ),
        again="CERTIFICATE_VERIFY_FAILED" not in str(error.__cause__),
    )


def describe(error: BaseException) -> str:
    """An error in one line, without credentials."""
    cause = error.__cause__ or error
    text = " ".join(scrub(str(cause)).split())
    if text.startswith("Illegal header"):  # The text goes on with the header, which may be the token's.
        text = "a header cannot be sent (is there a line break in the token?)"
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__
