"""What a thread holds, as a request is compared with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from databricks_supervisor.items import Item, items_from_message
from databricks_supervisor.items.history import question_digest

from ..threads import Look
from .request import is_input_message


class ThreadIndex:
    """What a thread holds, as a request is compared with it.

    Attributes:
        look: The thread.
        said: What people and the system said: index of the message, and the digest of what it says.
        calls: Function calls by id: index of the message, and the function's name.
        outputs: Outputs by their call's id: index of the message.
    """

    def __init__(self, look: Look) -> None:
        self.look = look
        self.said: list[tuple[int, str]] = []
        self.calls: dict[str, tuple[int, str]] = {}
        self.outputs: dict[str, int] = {}
        self._requests: dict[str, int] = {}
        self._decided: list[tuple[int, str]] = []
        for index, message in enumerate(look.messages):
            for item in items_from_message(message):
                match item.get("type", "message"):
                    case "message" if is_input_message(item):
                        self.said.append((index, question_digest([message])))
                    case "function_call":
                        self.calls[str(item.get("call_id"))] = (index, str(item.get("name")))
                    case "function_call_output":
                        self.outputs[str(item.get("call_id"))] = index
                    case "mcp_approval_request":
                        self._requests[str(item.get("id"))] = index
                    case "mcp_approval_response":
                        self._decided.append((index, str(item.get("approval_request_id"))))

    @property
    def waiting_calls(self) -> set[str]:
        """Calls of the client's own functions that the last turn ended with."""
        own = {tool.get("name") for tool in (self.look.job or {}).get("tools", [])}
        since = self.said[-1][0] if self.said else 0
        return {
            id
            for id, (index, name) in self.calls.items()
            if index > since and name in own and id not in self.outputs
        }

    def decided(self, since: int = 0) -> Counter[str]:
        """How often each id was decided on, from a message on; what waits for an answer is not."""
        found = Counter(id for index, id in self._decided if index >= since)
        if not since:
            turn = {  # One that is being recorded at this moment is not: recording says which stands.
                effect.key.id
                for effect in self.look.effects
                if effect.key.kind == "decision" and "approve" in (effect.outcome or {})
            }
            found.update(id for id in turn if id not in found)
        return found

    def has(self, item: Item, *, without: Sequence[str]) -> bool:
        """Whether a call, its output or an approval request is in the thread, and stays there.

        Args:
            item: The item, from a client.
            without: Ids of the messages that are taken out.
        """
        match item.get("type"):
            case "function_call":
                index = self.calls.get(str(item.get("call_id")), (-1, ""))[0]
            case "function_call_output":
                index = self.outputs.get(str(item.get("call_id")), -1)
            case "mcp_approval_request":
                index = self._requests.get(str(item.get("id")), -1)
            case _:
                return False
        return index >= 0 and str(self.look.messages[index].id) not in without

    def following(self, belongs: Callable[[str], bool]) -> list[str]:
        """Ids of the messages after a turn, if others have followed it."""
        own = [index for index, message in enumerate(self.look.messages) if belongs(message.id or "")]
        return self.from_message(own[-1] + 1) if own else []

    def from_message(self, index: int) -> list[str]:
        """Ids of the messages from one on."""
        return [str(message.id) for message in self.look.messages[index:]]
