"""The node that runs the caller's own functions: each call at most once, its output recorded."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.messages.tool import ToolCall
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.errors import GraphBubbleUp, GraphInterrupt, is_invalid_resume
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from .approvals import Question, answer_schema, ask, read_answer
from .decisions import record_decision
from .effects import Done, Nothing, Unknown, look, once
from .endings import end_without_answer, was_followed
from .errors import CallUnknownError, ConfigurationError, InvalidAnswerError, TurnEndedError
from .items import Item
from .ledger import EffectKey
from .pending import follow_up, pending_of
from .run import Run, run_of
from .state import Decision, Job, SupervisorState

__all__ = ["REPEATABLE", "call_tools"]

REPEATABLE = "safe_to_repeat"
"""Key of a tool's ``metadata``: true for a function that may run twice, so that nobody is asked."""

THE_GRAPH = "*"
"""``asking`` in a pass that asks about calls of unknown outcome, and runs none."""

Output = ToolMessage | Command[Any]

_serde = JsonPlusSerializer()


async def call_tools(state: SupervisorState, config: RunnableConfig) -> Any:
    """Run the calls of declared functions that have no output yet, then go on to the follow-up.

    Hosted calls look the same and were run by the service: only names that the caller declared are run
    (CONTRACT: Client-side functions). LangGraph's ``ToolNode`` runs each one, so state and store are injected
    and errors become output for the model as it does; the claim is around it, because an exception inside
    would become output too.

    LangGraph hands a pass its answers in order, and hands them out again when the pass is run again. So one
    pass asks for one: whoever else has something to ask waits for the next pass, or would get that answer.
    """
    run, job = run_of(config), state["job"]
    calls = pending_of(state, run).calls
    asking = job.get("asking")
    unknown = await _unknown(run, job, calls)
    if bool(unknown) != (asking == THE_GRAPH):
        return {"job": {**job, "asking": THE_GRAPH if unknown else None}}
    if unknown:
        return await _ask(run, job, unknown)
    running = [call for call in calls if asking in (None, call["call_id"])]
    results = await asyncio.gather(
        *(_call(run, state, call, config) for call in running), return_exceptions=True
    )
    for result in results:
        if isinstance(result, TurnEndedError) and not await was_followed(run, job["turn_id"]):
            return await end_without_answer(run, job, result)
        if isinstance(result, BaseException) and not isinstance(result, _BecameUnknown | GraphInterrupt):
            raise result
    if any(isinstance(result, _BecameUnknown) for result in results):
        return {"job": job}  # The next pass asks.
    interrupts = [
        (str(call["call_id"]), result)
        for call, result in zip(running, results, strict=True)
        if isinstance(result, GraphInterrupt)
    ]
    if len(interrupts) > 1:
        return {"job": {**job, "asking": interrupts[0][0]}}
    if interrupts:
        raise interrupts[0][1]
    if asking:
        return {"job": {**job, "asking": None}}  # The next pass runs the others.
    outputs = [output for result in results for output in cast("list[Output]", result)]
    commands = [output for output in outputs if isinstance(output, Command)]
    messages = [output for output in outputs if not isinstance(output, Command)]
    if any(command.graph == Command.PARENT for command in commands):
        if "|" not in str(config.get("configurable", {}).get("checkpoint_ns")):
            error = ConfigurationError(
                "A function handed over to the parent graph, and there is none: the supervisor runs by itself. "
                "The thread has everything so far. Embed the graph, or let the function return a text."
            )
            return await end_without_answer(run, job, error)
        await run.ledger.end_turn(job["turn_id"])  # The parent takes over: this turn has no follow-up.
        return [*commands, {"messages": messages}]
    update = await follow_up(run, {**job, "call_permits": {}, "complaint": None}, messages)
    return [*commands, update] if commands else update


class _BecameUnknown(Exception):
    """A call that another process was running is not running any more."""


async def _call(run: Run, state: SupervisorState, call: Item, config: RunnableConfig) -> list[Output]:
    """The outputs of one call: of its run now, or as they were recorded."""
    job, call_id = state["job"], str(call["call_id"])
    args = _arguments(call)
    if args is None:
        text = f"Error: the arguments of {call['name']} are not a JSON object. Call it again with one."
        return [_identified(ToolMessage(text, tool_call_id=call_id, status="error"), job, call_id)]
    asked = AIMessage("", tool_calls=[ToolCall(name=call["name"], args=args, id=call_id, type="tool_call")])

    async def action(_attempt: int) -> dict[str, Any]:
        node = ToolNode(list(run.settings.functions), handle_tool_errors=True)
        try:
            result = await node.ainvoke({**state, "messages": [*state["messages"], asked]}, config)
        except GraphBubbleUp as bubble:  # An interrupt inside the function: it runs again from its top.
            raise Nothing(bubble) from None
        except Exception as error:
            if is_invalid_resume(error):
                raise Nothing(error) from None
            raise
        parts = result if isinstance(result, list) else [result]
        outputs = [
            output for part in parts for output in (part["messages"] if isinstance(part, dict) else [part])
        ]
        return _dump([_identified(output, job, call_id) for output in outputs])

    permit = job.get("call_permits", {}).get(call_id)
    while True:
        result = await once(
            run.ledger, _key(job, call_id), action, lifetime_s=run.settings.call_lifetime_s, permit=permit
        )
        if isinstance(result, Done):
            return _load(result.outcome)
        if not _repeatable(run, call["name"]):
            raise _BecameUnknown
        permit = result.attempt


async def _unknown(run: Run, job: Job, calls: Sequence[Item]) -> list[tuple[Item, Unknown]]:
    """The calls that were begun by a process that is gone, and that nobody allowed to be repeated."""
    unknown = []
    for call in calls:
        call_id = str(call["call_id"])
        found = await look(run.ledger, _key(job, call_id), lifetime_s=run.settings.call_lifetime_s)
        allowed = job.get("call_permits", {}).get(call_id)
        if isinstance(found, Unknown) and allowed != found.attempt and not _repeatable(run, call["name"]):
            unknown.append((call, found))
    return unknown


async def _ask(run: Run, job: Job, unknown: Sequence[tuple[Item, Unknown]]) -> dict[str, Any]:
    """An outcome that is unknown is never guessed."""
    permits = {str(call["call_id"]): found.attempt for call, found in unknown}
    if run.settings.on_unknown_submission == "ask" and run.resumable:
        questions = [_question(call, found) for call, found in unknown]
        ids = [question.id for question in questions]
        answer = interrupt(
            ask("repeat_call", questions, job["response_id"], job.get("complaint")),
            response_schema=answer_schema(ids),
        )
        try:
            decisions = read_answer(answer, ids)
        except InvalidAnswerError as invalid:
            return {"job": {**job, "complaint": str(invalid)}}
        return await _decided(run, job, unknown, decisions)
    if run.settings.on_unknown_submission == "resubmit":
        return {"job": {**job, "call_permits": {**job.get("call_permits", {}), **permits}}}
    names = ", ".join(f"{call['name']} ({call['call_id']})" for call, _ in unknown)
    error = CallUnknownError(
        f"{names} was begun and cut off, and what it did is not known. It was not run again. The thread keeps "
        "everything so far. Find out what it did, then send a new message."
    )
    return await end_without_answer(run, job, error)


async def _decided(
    run: Run, job: Job, unknown: Sequence[tuple[Item, Unknown]], decisions: dict[str, Decision]
) -> dict[str, Any]:
    permits = dict(job.get("call_permits", {}))
    for call, found in unknown:
        call_id = str(call["call_id"])
        given = decisions.get(call_id)
        if given is None:
            continue
        about = {"name": call["name"], "args": _arguments(call) or {}}
        asked = Decision(approve=given["approve"], by=given["by"], asked=about)
        if "reason" in given:
            asked["reason"] = given["reason"]
        decision = await record_decision(
            run.ledger, job["turn_id"], job["round"], f"repeat_{found.attempt}_{call_id}", asked
        )
        if decision["approve"]:
            permits[call_id] = found.attempt
            continue
        why = f" ({decision['reason']})" if decision.get("reason") else ""
        text = f"Error: {call['name']} was cut off; what it did is not known, and it was not run again{why}."
        refused = _identified(ToolMessage(text, tool_call_id=call_id, status="error"), job, call_id)
        await run.ledger.record(_key(job, call_id), found.attempt, _dump([refused]))
    return {"job": {**job, "call_permits": permits, "complaint": None}}


def _question(call: Item, unknown: Unknown) -> Question:
    when = datetime.fromtimestamp(unknown.claimed_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    args = _arguments(call) or {}
    shown = json.dumps(args, ensure_ascii=False)
    return Question(
        id=str(call["call_id"]),
        name=str(call["name"]),
        args=args,
        description=f"{call['name']}({shown}) was begun at {when} and cut off; what it did is not known "
        f"({unknown.reason}).\nApprove to run it again. Reject to tell the agent that it failed.",
    )


def _key(job: Job, call_id: str) -> EffectKey:
    return EffectKey(job["turn_id"], job["round"], "tool", call_id)


def _repeatable(run: Run, name: str) -> bool:
    return any(
        function.name == name and bool((function.metadata or {}).get(REPEATABLE))
        for function in run.settings.functions
    )


def _arguments(call: Item) -> dict[str, Any] | None:
    given = call.get("arguments")
    if given in (None, ""):
        return {}
    try:
        args = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return None
    return args if isinstance(args, dict) else None


def _identified(output: Any, job: Job, call_id: str) -> Any:
    """The output under an id that says which response it answers, so that a repeat is not kept twice."""
    if isinstance(output, ToolMessage) and output.tool_call_id == call_id:
        return output.model_copy(update={"id": f"{job['response_id']}:output:{call_id}"})
    if isinstance(output, Command) and isinstance(output.update, dict) and "messages" in output.update:
        messages = [_identified(message, job, call_id) for message in output.update["messages"]]
        return Command(
            graph=output.graph,
            update={**output.update, "messages": messages},
            resume=output.resume,
            goto=output.goto,
        )
    return output


def _dump(outputs: Sequence[Any]) -> dict[str, Any]:
    try:
        kind, data = _serde.dumps_typed(list(outputs))
    except Exception:  # An artifact that cannot be kept must not make the outcome of the call unknown.
        plain = [
            output.model_copy(update={"artifact": None}) if isinstance(output, ToolMessage) else output
            for output in outputs
        ]
        kind, data = _serde.dumps_typed(plain)
    return {"serde": kind, "outputs": base64.b64encode(data).decode()}


def _load(outcome: dict[str, Any]) -> list[Output]:
    loaded = _serde.loads_typed((outcome["serde"], base64.b64decode(outcome["outputs"])))
    return cast("list[Output]", loaded)
