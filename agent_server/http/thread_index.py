"""Index of a thread's items, to find what a request adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from langchain_core.messages import BaseMessage

from databricks_supervisor.items import Item, items_from_message
from databricks_supervisor.items.history import question_digest

from ..threads import ThreadSnapshot

_SENDERS = ("user", "system", "developer")


def is_input_message(item: Item) -> bool:
    """Whether an item is a message to the agent, from a person or the system."""
    return item.get("type", "message") == "message" and item.get("role") in _SENDERS


class ThreadIndex:
    """Index of a thread's items.

    Attributes:
        thread: The thread.
        inputs: The messages to the agent: position among the thread's messages, and digest of the content.
        calls: Function calls by id: position of the message, and the function's name.
        outputs: Outputs by their call's id: position of the message.
    """

    def __init__(self, thread: ThreadSnapshot) -> None:
        self.thread = thread
        self.inputs: list[tuple[int, str]] = []
        self.calls: dict[str, tuple[int, str]] = {}
        self.outputs: dict[str, int] = {}
        self._requests: dict[str, int] = {}
        self._decided: list[tuple[int, str]] = []
        for position, message in enumerate(thread.messages):
            for item in items_from_message(message):
                match item.get("type", "message"):
                    case "message" if is_input_message(item):
                        self.inputs.append((position, question_digest([message])))
                    case "function_call":
                        self.calls[str(item.get("call_id"))] = (position, str(item.get("name")))
                    case "function_call_output":
                        self.outputs[str(item.get("call_id"))] = position
                    case "mcp_approval_request":
                        self._requests[str(item.get("id"))] = position
                    case "mcp_approval_response":
                        self._decided.append((position, str(item.get("approval_request_id"))))

    @property
    def waiting_calls(self) -> set[str]:
        """Calls of the client's own functions that the last turn ended with."""
        own = {tool.get("name") for tool in (self.thread.job or {}).get("tools", [])}
        since = self.inputs[-1][0] if self.inputs else 0
        return {
            id
            for id, (position, name) in self.calls.items()
            if position > since and name in own and id not in self.outputs
        }

    def decided(self, since: int = 0) -> Counter[str]:
        """How often each approval was decided on, by id. One that is being recorded at this moment does not count.

        Args:
            since: Position of the first message that counts. From 0 on, the latest turn's decisions in the ledger
                count too.
        """
        found = Counter(id for position, id in self._decided if position >= since)
        if not since:
            found.update({id for _, id in self.thread.decisions if id not in found})
        return found

    def has(self, item: Item, *, without: Sequence[str]) -> bool:
        """Whether a call, its output or an approval request is in the thread, and stays there.

        Args:
            item: The item, from a client.
            without: Ids of the messages that are taken out.
        """
        match item.get("type"):
            case "function_call":
                position = self.calls.get(str(item.get("call_id")), (-1, ""))[0]
            case "function_call_output":
                position = self.outputs.get(str(item.get("call_id")), -1)
            case "mcp_approval_request":
                position = self._requests.get(str(item.get("id")), -1)
            case _:
                return False
        return position >= 0 and str(self.thread.messages[position].id) not in without

    def after(self, of_turn: Callable[[BaseMessage], bool]) -> list[str]:
        """Ids of the messages after those of a turn."""
        own = [position for position, message in enumerate(self.thread.messages) if of_turn(message)]
        return self.from_message(own[-1] + 1) if own else []

    def from_message(self, position: int) -> list[str]:
        """Ids of the messages from a position on."""
        return [str(message.id) for message in self.thread.messages[position:]]
