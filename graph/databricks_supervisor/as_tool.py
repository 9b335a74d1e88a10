"""A supervisor as a tool of another agent."""

from __future__ import annotations

from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool

from .compiled import CompiledSupervisorGraph, SupervisorGraph
from .entry.position import config_of_call


def as_tool(graph: SupervisorGraph | CompiledSupervisorGraph, *, name: str, description: str) -> BaseTool:
    """Make a tool of a supervisor, for ``create_agent`` and ``ToolNode``.

    Each call is one turn, identified by the call's id: a tool node that runs again after an interrupt or a
    crash continues the same job. Interrupts surface on the outer agent and are answered there; progress is
    streamed through the outer run.

    Args:
        graph: The supervisor. Compiled, it must inherit its checkpointer (``checkpointer=None``).
        name: Name of the tool.
        description: What the outer agent's model is told about it.

    Example:
        >>> from databricks_supervisor import as_tool, create_supervisor_graph
        >>> tool = as_tool(create_supervisor_graph(model="m"), name="sales", description="Knows the sales.")
        >>> sorted(tool.args)
        ['question']
    """
    compiled = graph.compile() if isinstance(graph, SupervisorGraph) else graph

    def ask(question: str, tool_call_id: Annotated[str, InjectedToolCallId], config: RunnableConfig) -> str:
        result = compiled.invoke(_input(question), config_of_call(config, name, tool_call_id))
        return _answer(result)

    async def aask(
        question: str, tool_call_id: Annotated[str, InjectedToolCallId], config: RunnableConfig
    ) -> str:
        result = await compiled.ainvoke(_input(question), config_of_call(config, name, tool_call_id))
        return _answer(result)

    return StructuredTool.from_function(ask, aask, name=name, description=description)


def _input(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


def _answer(result: dict[str, Any]) -> str:
    texts = (message.text for message in reversed(result["messages"]) if message.type == "ai")
    return next((str(text) for text in texts if text), "")
