"""The events of a response: a pure function of its items, so that every process gives an event the same number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from databricks_supervisor.items import Item
from databricks_supervisor.items.json_values import json_safe

Event = dict[str, Any]

DELTA = 400
SHORTEST_DELTA = 200


@dataclass(frozen=True, slots=True)
class ResponseSnapshot:
    """A response as it is now.

    Attributes:
        id: The public id.
        created_at: When it began, in seconds since the epoch.
        model: Name of the model.
        thread: The name that the thread's owner knows it by.
        status: As in the Responses API.
        items: Its output so far, as clients understand it.
        response_id: Id of the job at the service, or ``None``.
        pending: What waits for a person's decision, and what each is about.
        error: ``code`` and ``message`` of a job that ended without its answer.
        usage: Token counts.
        incomplete: Why the answer is incomplete.
        open: Whether the response goes on under this id once the rest of its pause is answered.
        ends_turn: Whether nothing of its turn comes after it.
        refused: HTTP status for a client that waited, if the service refused the request itself.
    """

    id: str
    created_at: float
    model: str
    thread: str
    status: str
    items: list[Item] = field(default_factory=list)
    response_id: str | None = None
    pending: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, str] | None = None
    usage: dict[str, Any] | None = None
    incomplete: dict[str, Any] | None = None
    open: bool = False
    ends_turn: bool = False
    refused: int | None = None

    @property
    def final(self) -> bool:
        """Whether nothing more comes for now."""
        return self.status not in ("queued", "in_progress")


def response_of(snapshot: ResponseSnapshot, *, output: bool = True) -> dict[str, Any]:
    """A response as the Responses API writes it; with its items, unless output is false."""
    known: dict[str, Any] = {"thread_id": snapshot.thread}
    if output:
        known |= {"response_id": snapshot.response_id, "pending": json_safe(snapshot.pending)}
    response: dict[str, Any] = {
        "id": snapshot.id,
        "object": "response",
        "created_at": int(snapshot.created_at),
        "status": snapshot.status,
        "model": snapshot.model,
        "output": snapshot.items if output else [],
        "error": json_safe(snapshot.error),
        "incomplete_details": snapshot.incomplete,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "metadata": {},
        "custom_outputs": known,
    }
    if snapshot.usage:
        response["usage"] = snapshot.usage
    return response


class EventStream:
    """The events of one response, in order, as it grows.

    Args:
        after: Number of the last event that the client has; -1 for none.

    Example:
        >>> message = {"type": "message", "id": "m", "content": [{"type": "output_text", "text": "Hi"}]}
        >>> snapshot = ResponseSnapshot("resp_t_0", 0.0, "m", "t", "completed", [message], ends_turn=True)
        >>> [event["type"].removeprefix("response.") for event in EventStream().events(snapshot)][2:-1]
        ['output_item.added', 'content_part.added', 'output_text.delta', 'output_item.done']
    """

    def __init__(self, after: int = -1) -> None:
        self._after = after
        self._next = 0
        self._items = 0
        self.wrote_text = False

    def events(self, snapshot: ResponseSnapshot) -> Iterator[Event]:
        """The events that are new, beyond those that the client has."""
        for event in self._all(snapshot):
            if event["sequence_number"] > self._after:
                self.wrote_text |= event["type"] == "response.output_text.delta"
                yield event
        if snapshot.final and snapshot.open:
            # Not the end of the sequence: the response goes on under this id.
            yield {
                "type": "response.completed",
                "sequence_number": self.last,
                "response": response_of(snapshot),
            }

    def keep_alive(self, snapshot: ResponseSnapshot) -> Event:
        """An event that says nothing new, with the number of the last one."""
        response = response_of(snapshot, output=False)
        return {"type": "response.in_progress", "sequence_number": self.last, "response": response}

    @property
    def last(self) -> int:
        """Number of the last event."""
        return max(self._next - 1, self._after)

    def _all(self, snapshot: ResponseSnapshot) -> Iterator[Event]:
        if not self._next:
            begun = {**response_of(snapshot, output=False), "status": "in_progress", "error": None}
            begun.pop("usage", None)
            yield self._numbered("response.created", response=begun, custom_outputs=begun["custom_outputs"])
            yield self._numbered("response.in_progress", response=begun)
        for index in range(self._items, len(snapshot.items)):
            self._items += 1
            yield from self._item(snapshot.items[index], index)
        if not snapshot.final or snapshot.open:
            return
        response = response_of(snapshot)
        if snapshot.status in ("failed", "cancelled"):
            error = response["error"] or {
                "code": snapshot.status,
                "message": f"The job was {snapshot.status}.",
            }
            yield self._numbered("error", code=error["code"], message=error["message"], param=None)
            yield self._numbered("response.failed", response=response)
        else:
            yield self._numbered(
                f"response.{snapshot.status}", response=response, custom_outputs=response["custom_outputs"]
            )

    def _item(self, item: Item, index: int) -> Iterator[Event]:
        match item["type"]:
            case "message":
                yield from self._message(item, index)
            case "reasoning":
                yield from self._reasoning(item, index)
            case _:
                yield self._numbered("response.output_item.added", output_index=index, item=item)
        yield self._numbered("response.output_item.done", output_index=index, item=item)

    def _reasoning(self, item: Item, index: int) -> Iterator[Event]:
        # Without deltas the AI SDK's provider begins it twice, and one of the two is never finished.
        place = {"item_id": item["id"], "output_index": index, "summary_index": 0}
        empty = {"type": "summary_text", "text": ""}
        yield self._numbered("response.output_item.added", output_index=index, item={**item, "summary": []})
        yield self._numbered("response.reasoning_summary_part.added", **place, part=empty)
        for delta in deltas_of(item["summary"][0]["text"]):
            yield self._numbered("response.reasoning_summary_text.delta", **place, delta=delta)

    def _message(self, item: Item, index: int) -> Iterator[Event]:
        part = item["content"][0]
        place = {"item_id": item["id"], "output_index": index, "content_index": 0}
        begun = {**item, "status": "in_progress", "content": []}
        empty = {"type": "output_text", "text": "", "annotations": []}
        yield self._numbered("response.output_item.added", output_index=index, item=begun)
        yield self._numbered("response.content_part.added", **place, part=empty)
        for delta in deltas_of(part["text"]):
            yield self._numbered("response.output_text.delta", **place, delta=delta)
        for number, annotation in enumerate(part.get("annotations", ())):
            # The AI SDK's provider takes each for a link, and a link without an address stops its clients.
            if annotation["type"] == "url_citation":
                yield self._numbered(
                    "response.output_text.annotation.added",
                    **place,
                    annotation_index=number,
                    annotation=annotation,
                )

    def _numbered(self, type: str, **more: Any) -> Event:
        event = {"type": type, "sequence_number": self._next, **more}
        self._next += 1
        return event


def deltas_of(text: str) -> Iterator[str]:
    """A text in pieces of 200 characters or more, unless it is shorter. Where it is cut depends on the text alone.

    Example:
        >>> [len(delta) for delta in deltas_of("word " * 200)]
        [400, 600]
    """
    start = 0
    while start < len(text):
        end = start + DELTA
        space = text.find(" ", end - 1, end + DELTA)
        end = space + 1 if space >= 0 else end
        if len(text) - end < SHORTEST_DELTA:
            end = len(text)
        yield text[start:end]
        start = end


def sse(event: Event) -> str:
    """An event as a server-sent event."""
    return f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"
