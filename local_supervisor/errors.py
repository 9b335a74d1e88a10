"""The error that every part of the service raises; the server converts it to an HTTP response."""

from __future__ import annotations


class ApiError(Exception):
    """A response with an error status, in the formats of Databricks and of OpenAI.

    Args:
        status: HTTP status.
        message: The error text, as in the contract if it has one.
        code: Databricks' `error_code`.
    """

    def __init__(self, status: int, message: str, code: str = "INVALID_PARAMETER_VALUE") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code

    def body(self) -> dict[str, object]:
        """Code and message at the top level (Databricks) and under `error` (OpenAI)."""
        return {
            "error_code": self.code,
            "message": self.message,
            "error": {"code": self.code, "message": self.message, "type": "invalid_request_error"},
        }


DEFAULT_CODES = {
    400: ("INVALID_PARAMETER_VALUE", "The request is not valid."),
    401: ("UNAUTHENTICATED", "Credential was not sent or was of an unsupported type for this API."),
    403: ("PERMISSION_DENIED", "The caller does not have permission to use this endpoint."),
    404: ("RESOURCE_DOES_NOT_EXIST", "Not found."),
    408: ("DEADLINE_EXCEEDED", "The request took too long."),
    409: ("RESOURCE_CONFLICT", "The request conflicts with another one."),
    410: ("ENDPOINT_RETIRED", "This API was retired."),
    429: ("REQUEST_LIMIT_EXCEEDED", "Too many requests; try again later."),
    500: ("INTERNAL_ERROR", "Internal error."),
    501: ("NOT_IMPLEMENTED", "This operation is not supported."),
    503: ("TEMPORARILY_UNAVAILABLE", "The service is temporarily unavailable."),
}


def error_for(status: int, message: str | None = None, code: str | None = None) -> ApiError:
    """The error with this status, with a default text and code."""
    default_code, default_message = DEFAULT_CODES.get(status, (f"HTTP_{status}", f"Error {status}."))
    return ApiError(status, message or default_message, code or default_code)
