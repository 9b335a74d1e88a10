"""The service over HTTP, and what a failed exchange proves. The only room that knows openai, httpx and the SDKs.

Lives here: :mod:`.responses` (create, retrieve, cancel), :mod:`.pool` (one client per identity and event loop),
:mod:`.poll_transport` and :mod:`.credentials` (the quick path of polls), :mod:`.failures` (what went wrong,
and whether anything was created).

May import: ``polling``, ``errors``, ``redaction``.
"""
