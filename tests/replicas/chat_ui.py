"""A chat surface as Databricks' chat UI is one: it keeps the conversation, and posts all of it."""

from __future__ import annotations

import copy
import json
from typing import Any

from tests.replicas.responses_client import Item, ResponsesClient, allow, new_thread, requests_in, user
from tests.support.local_supervisor_process import LocalSupervisor

BriefInput = list[tuple[Any, ...]]


class Chat:
    """One conversation of the chat UI.

    Args:
        client: The server that it is connected to; may be replaced at any time.
        service: What the server asks.
        thread: The conversation's id.

    Attributes:
        items: The conversation, as the UI has it.
        response: The latest response.
    """

    def __init__(self, client: ResponsesClient, service: LocalSupervisor, thread: str | None = None) -> None:
        self.client = client
        self.thread = thread or new_thread()
        self.items: list[Item] = []
        self.response: dict[str, Any] = {}
        self._service = service

    def say(self, text: str) -> dict[str, Any]:
        """Send a message."""
        self.items.append(user(text))
        return self.post()

    def press(self, request: Item, approve: bool = True) -> dict[str, Any]:
        """Press Allow, which re-posts the conversation with no new message."""
        self.items.append(allow(request, approve))
        return self.post()

    def post(self) -> dict[str, Any]:
        """Post the conversation as it is, and keep what comes."""
        self.response = self.client.stream(self.body()).response
        self.items += [as_kept(item) for item in self.response["output"] if not self._knows(item)]
        return self.response

    def body(self) -> dict[str, Any]:
        """What it posts."""
        return {"input": copy.deepcopy(self.items), "context": {"conversation_id": self.thread}}

    @property
    def requests(self) -> list[Item]:
        """The approval requests that the latest response shows."""
        return requests_in(self.response)

    def inputs(self, asked: str) -> list[BriefInput]:
        """The input of each job that the service got for a question, in order, told shortly."""
        jobs = self._service.submissions(asked)["jobs"]
        return [brief(self._service.job(job["id"])["request"]["input"]) for job in jobs]

    def _knows(self, item: Item) -> bool:
        return any(
            known.get("id") == item["id"] and known.get("type") == item["type"] for known in self.items
        )


def as_kept(item: Item) -> Item:
    """An item as the UI gives it back: arguments serialised anew, the server's label lost."""
    kept = copy.deepcopy(item)
    if "arguments" in kept:
        kept["arguments"] = json.dumps(json.loads(kept["arguments"]), separators=(" ,", " :"))
    if "server_label" in kept:
        kept["server_label"] = ""
    return kept


def brief(items: list[Item]) -> BriefInput:
    """The input of a request, told shortly."""
    told: BriefInput = []
    for item in items:
        match item.get("type", "message"):
            case "message":
                told.append((item["role"], _text(item["content"]).partition(" [[")[0]))
            case "function_call":
                told.append(("call", item["call_id"]))
            case "function_call_output":
                told.append(("output", item["call_id"]))
            case "mcp_approval_request":
                told.append(("request", item["id"], json.loads(item["arguments"]), item["server_label"]))
            case "mcp_approval_response":
                assert item["id"] == item["approval_request_id"]
                told.append(("approved" if item["approve"] else "refused", item["id"]))
    return told


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
