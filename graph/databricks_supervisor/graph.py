"""The picture: nodes, edges, and nothing else.

START → submit → poll ⟲ ─┬→ approve ⟲ → submit      a tool call waits for a person
                         ├→ call_tools → submit      a function of the caller's waits to be run
                         └→ END
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.graph import END, START

from .approval_policy import ApprovalPolicy
from .checkpoint.ledger_resolver import LedgerResolver
from .client.dialect import dialect_of
from .client.pool import ClientFactory, ClientPool, databricks_client
from .compiled import SupervisorGraph
from .entry.prepare import Parts
from .entry.sync import sync_and_async
from .ledger import Ledger
from .nodes.approve import approve
from .nodes.call_tools import call_tools
from .nodes.poll import poll
from .nodes.routing import after_approve, after_call_tools, after_poll, after_submit
from .nodes.submit import submit
from .polling import Polling
from .run import Headers, Time, no_headers
from .settings import GRACE_S, JOB_CAP_S, OnBusy, OnFailure, OnUnknownSubmission, Settings, SupervisorContext
from .state import GraphInput, SupervisorOutput, SupervisorState
from .tools import Tool, read_tools


def create_supervisor_graph(
    *,
    model: str,
    instructions: str | None = None,
    tools: Sequence[Tool] = (),
    polling: Polling = "auto",
    ledger: Ledger | None = None,
    client_factory: ClientFactory = databricks_client,
    dialect: str | None = None,
    require_approval: ApprovalPolicy = "always",
    on_failure: OnFailure = "raise",
    on_unknown_submission: OnUnknownSubmission = "ask",
    on_busy: OnBusy = "reject",
    parameters: Mapping[str, Any] | None = None,
    deadline_s: float = JOB_CAP_S + GRACE_S,
    create_timeout_s: float = 30.0,
    retrieve_timeout_s: float = 30.0,
    call_lifetime_s: float = 300.0,
    unreachable_after_s: float = 300.0,
    not_found_grace_s: float = 10.0,
    max_rounds: int = 25,
    request_headers: Headers = no_headers,
    time: Time | None = None,
) -> SupervisorGraph:
    """A graph that submits a question as a background job, once, and polls it to its answer.

    Args:
        model: Name of the model that the service runs.
        instructions: System instructions for the model.
        tools: Hosted tools (:func:`genie_space`, :func:`uc_function`, …, or dicts, which are passed on as they
            are) and client-side functions (LangChain tools, ``@tool`` functions, callables).
        polling: ``"auto"``, a number of seconds, or a function of :class:`PollMoment`.
        ledger: Where side effects are claimed. By default it is kept where the checkpoints are: in the same
            SQLite file or Postgres database, or in memory with an in-memory checkpointer (then always).
        client_factory: Builds a client of the OpenAI SDK for a named identity (``None``: the process's own);
            called in a thread, once per identity and event loop. Default: the workspace of the environment.
        dialect: Which service answers: ``"databricks"``, ``"openai"``, ``"agentserver"``, ``"ogx"``,
            ``"long-running"``, ``"litellm"`` or ``"default"`` (docs/services.md). By default its address tells.
        require_approval: Which MCP tool calls a person must approve, in OpenAI's vocabulary.
        on_failure: ``"raise"`` a typed error when a job ends without its answer, or add a ``"message"`` that
            says so, for callers that must go on (a branch of a fan-out).
        on_unknown_submission: When nobody knows whether a POST arrived: ``"ask"`` a person, ``"resubmit"``, or
            ``"fail"``. The same goes for a client-side function that was cut off.
        on_busy: A new message while a job of the thread runs: ``"reject"`` it, ``"wait"``, or ``"cancel"`` the job.
        parameters: More fields of the request, such as ``trace_destination``, or ``temperature`` (not with tools);
            read at each submission.
        deadline_s: Seconds after which a job that still runs is given up (docs/wire.md: Retrieve, 30 minutes).
        create_timeout_s: Time-out of the POST, in seconds.
        retrieve_timeout_s: Time-out of a poll, in seconds.
        call_lifetime_s: Seconds after which a client-side function that another machine began counts as cut off.
        unreachable_after_s: Seconds of failing polls after which the run ends (the turn is kept).
        not_found_grace_s: Seconds for which a 404 is believed to pass.
        max_rounds: Most rounds of approvals and function calls in a turn.
        request_headers: Gives more headers for each submission, such as a trace context (``traceparent``).
            It is called when the POST is made; what it raises is logged, and the POST goes without.
        time: Clock, sleep and randomness, for tests.

    Returns:
        A ``StateGraph``: compile it with your checkpointer.

    Raises:
        ConfigurationError: A setting cannot work. Nothing was sent.

    Example:
        >>> from langgraph.checkpoint.memory import InMemorySaver
        >>> graph = create_supervisor_graph(model="databricks-claude-sonnet-4-5", polling=2)
        >>> compiled = graph.compile(checkpointer=InMemorySaver())
    """
    declared, functions = read_tools(tools)
    settings = Settings(
        model=model,
        instructions=instructions,
        tools=tuple(declared),
        functions=tuple(functions),
        polling=polling,
        parameters={} if parameters is None else parameters,
        require_approval=require_approval,
        on_failure=on_failure,
        on_unknown_submission=on_unknown_submission,
        on_busy=on_busy,
        dialect=dialect,
        deadline_s=deadline_s,
        create_timeout_s=create_timeout_s,
        retrieve_timeout_s=retrieve_timeout_s,
        call_lifetime_s=call_lifetime_s,
        unreachable_after_s=unreachable_after_s,
        not_found_grace_s=not_found_grace_s,
        max_rounds=max_rounds,
    )
    graph = SupervisorGraph(
        SupervisorState,
        context_schema=SupervisorContext,
        input_schema=GraphInput,
        output_schema=SupervisorOutput,
    )
    graph.parts = Parts(
        settings,
        LedgerResolver(ledger),
        ClientPool(client_factory, dialect=dialect_of(dialect) if dialect is not None else None),
        time or Time(),
        request_headers,
    )
    graph.add_node("submit", sync_and_async("submit", submit))
    graph.add_node("poll", sync_and_async("poll", poll))
    graph.add_node("approve", sync_and_async("approve", approve))
    graph.add_node("call_tools", sync_and_async("call_tools", call_tools))
    graph.add_edge(START, "submit")
    graph.add_conditional_edges("submit", after_submit, ["submit", "poll", END])
    graph.add_conditional_edges("poll", after_poll, ["poll", "approve", "call_tools", END])
    graph.add_conditional_edges("approve", after_approve, ["approve", "call_tools", "submit", "poll", END])
    graph.add_conditional_edges("call_tools", after_call_tools, ["call_tools", "submit", "poll", END])
    return graph
