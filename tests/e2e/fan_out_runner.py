"""What a child of the fork server does when supervisors are parts of a larger graph.

``python -m tests.e2e.fan_out_runner FD`` is the fork server whose runs are those of :mod:`.runner`, of a parent
of one of these shapes: ``send`` (the supervisor is the node that is sent to), ``wrapped`` (a function around it
is), ``tools`` (a ToolNode with parallel calls), ``agent`` (``create_agent`` with parallel calls), ``task`` (the
functional API).
"""

from __future__ import annotations

import functools
import gc
import operator
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Send
from typing_extensions import TypedDict

from databricks_supervisor import as_tool
from tests.e2e import fork_server, runner

Supervisor = Any
build_supervisor = runner._build


def run_graph(spec: runner.Spec) -> None:
    """As :func:`.runner.run_graph`.

    Args:
        spec: As there, and ``shape``, ``width`` (how many branches ask the same question), ``durability`` of
            the parent's run.
    """
    runner._build = Parent  # type: ignore[assignment]
    runner._stream = stream
    runner._tell_end = tell_end
    runner.run_graph(spec)


async def stream(graph: Any, spec: runner.Spec) -> None:
    """Run the graph, and pass on the progress that comes through it."""
    given, config = runner._input(spec), runner._config(spec)
    async for _, event in graph.astream(given, config, stream_mode="custom", subgraphs=True):
        runner._say("progress", **event)


class Parent:
    """A parent that the runner compiles as if it were a supervisor."""

    def __init__(self, spec: runner.Spec) -> None:
        self._spec = spec

    def compile(self, checkpointer: Any, durability: str) -> Any:
        inner = "sync" if durability == "sync" else "inherit"
        supervisor = build_supervisor(self._spec).compile(durability=inner)
        compiled = SHAPES[self._spec["shape"]](supervisor, self._spec["width"], checkpointer)
        compiled.astream = functools.partial(compiled.astream, durability=durability)
        return compiled


class State(TypedDict):
    """A conversation, and the answers of the branches."""

    messages: Annotated[list[AnyMessage], add_messages]
    answers: Annotated[list[str], operator.add]


def tell_end(state: Any) -> None:
    """The run's last word: what is asked, the answers, and the conversation."""
    asked = [{"id": found.id, "value": found.value} for found in state.interrupts]
    values = state.values if isinstance(state.values, dict) else {"answers": state.values}
    runner._say(
        "end",
        status="waits" if asked else "unfinished" if state.next else "answered",
        asked=asked,
        answers=values.get("answers") or [],
        texts=[[message.type, message.text] for message in values.get("messages") or []],
    )


def _send(supervisor: Supervisor, width: int, checkpointer: Any) -> Any:
    return _fan_out(supervisor, width).compile(checkpointer=checkpointer)


def _wrapped(supervisor: Supervisor, width: int, checkpointer: Any) -> Any:
    async def ask(state: State) -> dict[str, Any]:
        result = await supervisor.ainvoke({"messages": state["messages"]})
        return {"answers": [result["messages"][-1].text]}

    return _fan_out(ask, width).compile(checkpointer=checkpointer)


def _fan_out(node: Any, width: int) -> StateGraph[Any, Any, Any, Any]:
    def fan_out(state: State) -> list[Send]:
        question = next(message for message in reversed(state["messages"]) if message.type == "human")
        return [Send("ask", {"messages": [{"role": "user", "content": question.text}]}) for _ in range(width)]

    parent: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    parent.add_node("ask", node)
    parent.add_node("join", lambda _state: {"answers": ["joined"]})
    parent.add_conditional_edges(START, fan_out, ["ask"])
    parent.add_edge("ask", "join")
    return parent


def _calls(messages: list[BaseMessage], width: int) -> AIMessage:
    question, turn = messages[-1].text, sum(message.type == "human" for message in messages)
    return AIMessage(
        "",
        id=f"calls-{turn}",
        tool_calls=[
            {"name": "sales", "args": {"question": question}, "id": f"call_{turn}_{n}", "type": "tool_call"}
            for n in range(width)
        ],
    )


def _tools(supervisor: Supervisor, width: int, checkpointer: Any) -> Any:
    parent: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    parent.add_node("model", lambda state: {"messages": [_calls(state["messages"], width)]})
    parent.add_node("tools", ToolNode([as_tool(supervisor, name="sales", description="Knows the sales.")]))
    parent.add_edge(START, "model")
    parent.add_edge("model", "tools")
    return parent.compile(checkpointer=checkpointer)


class Model(GenericFakeChatModel):
    """Calls the tool for a question, and repeats what its outputs say."""

    messages: Any = None
    width: int

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        said = _calls(messages, self.width) if messages[-1].type == "human" else AIMessage("That is all.")
        return ChatResult(generations=[{"message": said}])  # type: ignore[list-item]


def _agent(supervisor: Supervisor, width: int, checkpointer: Any) -> Any:
    tool = as_tool(supervisor, name="sales", description="Knows the sales.")
    return create_agent(Model(width=width), [tool], checkpointer=checkpointer)


def _task(supervisor: Supervisor, width: int, checkpointer: Any) -> Any:
    @task
    async def ask(question: str) -> str:
        result = await supervisor.ainvoke({"messages": [{"role": "user", "content": question}]})
        return str(result["messages"][-1].text)

    @entrypoint(checkpointer=checkpointer)
    async def workflow(given: dict[str, Any]) -> list[str]:
        question = given["messages"][0]["content"]
        return [await each for each in [ask(f"{question}") for _ in range(width)]]

    return workflow


SHAPES: dict[str, Callable[[Supervisor, int, Any], Any]] = {
    "send": _send,
    "wrapped": _wrapped,
    "tools": _tools,
    "agent": _agent,
    "task": _task,
}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert threading.active_count() == 1, threading.enumerate()
    fork_server.runner = sys.modules[__name__]
    gc.collect()
    gc.freeze()
    fork_server.serve(socket.socket(fileno=int(sys.argv[1])))
