"""The service over HTTP. The only package that imports openai, httpx and the SDKs.

Lives here: :mod:`.responses` (create, retrieve, cancel), :mod:`.pool` (one client per identity and event loop),
:mod:`.poll_transport` and :mod:`.credentials` (the fast path of polls), :mod:`.failures` (what a failed exchange
proves, and its error).

May import: ``polling``, ``errors``, ``redaction``.
"""
