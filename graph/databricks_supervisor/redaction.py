"""Credentials are taken out of every text before it becomes part of an error, a log line or a trace."""

from __future__ import annotations

import re
from typing import Any

_CREDENTIAL = re.compile(
    r"""(?ix)
      (?:bearer|basic)\s+[a-z0-9._~+/=-]{8,}                            # an Authorization value
    | (?<![a-z0-9])eyJ[a-z0-9_-]{5,}\.[a-z0-9_-]{5,}(?:\.[a-z0-9_-]*)?  # a JSON Web Token
    | (?<![a-z0-9])dapi[a-f0-9]{8,}(?:-\d+)?                            # a Databricks personal access token
    | (?<![a-z0-9])dose[a-f0-9]{8,}                                     # a Databricks OAuth secret
    | (?<![a-z0-9])sk-[a-z0-9_-]{8,}                                    # an OpenAI key
    | (?<=://)[^/\s:@]*:[^/\s]+(?=@)                                    # user:password in a URL
    | (?<=token=)[^&\s"']+ | (?<=secret=)[^&\s"']+ | (?<=password=)[^&\s"']+
    """
)


def scrub(text: str, *secrets: str) -> str:
    """Take credentials out of a text of the service before it becomes part of an error or a log line.

    Args:
        text: Any text.
        secrets: Values known to be secret (such as the ``Authorization`` header that was sent).

    Example:
        >>> scrub("401 for Bearer dapi0123456789abcdef")
        '401 for [redacted]'
    """
    for secret in secrets:
        for part in {secret, secret.rpartition(" ")[2]}:
            if len(part) >= 4:
                text = text.replace(part, "[redacted]")
    return _CREDENTIAL.sub("[redacted]", text)


def scrub_answer(text: str, response: Any) -> str:
    """Take out of an answer's text the credentials that its request was sent with, and all that look like some."""
    headers = response.request.headers
    return scrub(text, headers.get("authorization", ""), headers.get("api-key", ""))
