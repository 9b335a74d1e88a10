"""The agent server: the Responses API over HTTP, in front of the graph.

Lives here, in the order of a request: :mod:`.app` (put together), :mod:`.server` (the routes) with :mod:`.openapi`,
:mod:`.caller` (who asks), :mod:`.request` (what is sent), :mod:`.errors` (what a client is told); :mod:`.service`
(create, retrieve, stream, cancel), :mod:`.dispatcher` (the response that answers a request) with :mod:`.intent` (what
the request asks of the thread) and :mod:`.thread_index`; :mod:`.background_runs` (runs of the graph), :mod:`.follow`
(a response while it changes), :mod:`.response_reader` (a response as it is now) with :mod:`.responses` (public ids),
:mod:`.output_items` (items as clients understand them) and :mod:`.events` (server-sent events).

May import: everything of the app but ``cli`` and ``studio``.
"""
