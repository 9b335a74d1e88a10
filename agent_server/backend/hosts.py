"""Configured hosts: which workspace, whether it is an address, whether it accepts connections."""

from __future__ import annotations

import configparser
import os
import socket
import ssl
import threading
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import NotReachableError, UsageError

REACHABLE_WITHIN_S = 5.0
_WANTED = {
    "DATABRICKS_HOST": "a workspace, such as https://example.databricks.com",
    "OPENAI_BASE_URL": "a service, such as https://api.openai.com/v1",
}


def configured_workspace() -> str | None:
    """The host of the workspace that the environment names, as the Databricks SDK resolves it.

    Raises:
        UsageError: The configuration file cannot be read, or has no such profile.
    """
    if host := os.environ.get("DATABRICKS_HOST", "").strip():
        return host
    profile = os.environ.get("DATABRICKS_CONFIG_PROFILE", "").strip()
    if not profile and os.environ.get("DATABRICKS_TOKEN"):
        return None  # The SDK reads no file then.
    file = Path(os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg").expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        raise UsageError(f"{file} cannot be read as a Databricks configuration file.") from None
    wanted = profile or parser.get("__settings__", "default_profile", fallback="") or "DEFAULT"
    known = wanted == parser.default_section or parser.has_section(wanted)
    host = parser.get(wanted, "host", fallback="") if known else ""
    if profile and not host:
        raise UsageError(f"DATABRICKS_CONFIG_PROFILE={profile}: {file} has no such profile with a host.")
    return host or None


def check_address(setting: str, host: str) -> tuple[str, str, int]:
    """Scheme, host name and port of a setting.

    Raises:
        UsageError: It is not an address.
    """
    try:
        parts = urlsplit(host if "://" in host else f"https://{host}")
        found, port = parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        found, port = None, 0
    if not found or any(character.isspace() for character in host) or parts.scheme not in ("http", "https"):
        raise UsageError(f"{setting}={without_user(host)}: not the address of {_WANTED[setting]}.")
    return parts.scheme, found, port


def without_user(url: str) -> str:
    """A URL without user and password."""
    scheme, separator, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


def check_listening(setting: str, host: str) -> None:
    """Connect to the host once, before seconds are spent on loading an SDK, which would try for minutes.

    Raises:
        NotReachableError: It does not accept connections.
    """
    scheme, name, port = check_address(setting, host)
    if any(os.environ.get(key) or os.environ.get(key.lower()) for key in ("HTTPS_PROXY", "ALL_PROXY")):
        return  # Only the proxy may be able to reach it.
    outcome: list[str] = []

    def connect() -> None:
        try:
            with socket.create_connection((name, port), timeout=REACHABLE_WITHIN_S) as connection:
                if scheme == "https":
                    _shake_hands(connection, name)
            outcome.append("")
        except OSError as error:
            outcome.append(error.strerror or str(error) or type(error).__name__)

    # On a thread: a name look-up has no time-out of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(REACHABLE_WITHIN_S)
    reason = outcome[0] if outcome else f"no answer for {REACHABLE_WITHIN_S:.0f} s"
    if reason:
        raise NotReachableError(
            f"Cannot reach {name}:{port}: {reason}. Nothing was submitted. Check {setting} and the network."
        )


def _shake_hands(connection: socket.socket, name: str) -> None:
    """A TLS handshake. Nothing is sent, so the certificate does not matter here: the client checks it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.wrap_socket(connection, server_hostname=name).close()
