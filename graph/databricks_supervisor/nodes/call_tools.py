"""The node that runs client-side functions: each call at most once, its output recorded."""

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

from ..approvals.decisions import record_decision, repeat_call_id
from ..approvals.interrupts import PendingAction, answer_schema, interrupt_value, read_answer
from ..errors import CallUnknownError, ConfigurationError, InvalidAnswerError, TurnEndedError
from ..items import Item
from ..items.output import pending_of
from ..ledger import EffectKey
from ..ledger.run_once import Done, Unknown, peek, run_once
from ..run import Run, run_of
from ..state import Decision, Job, SupervisorState
from .transitions import fail_turn, is_latest, start_next_round

REPEATABLE = "safe_to_repeat"
"""Key of a tool's ``metadata``: true for a function that may run twice, so that nobody is asked."""

THE_NODE = "*"
"""Value of ``asking`` in a pass that asks about calls of unknown outcome and runs none."""

Output = ToolMessage | Command[Any]

_serde = JsonPlusSerializer()


async def call_tools(state: SupervisorState, config: RunnableConfig) -> Any:
    """Run the calls of declared functions that have no output yet, then go on to the follow-up.

    Hosted calls look the same and were run by the service: only functions that the caller declared are run
    (docs/wire.md: Client-side functions). LangGraph's ``ToolNode`` runs each one, which injects
    state and store and turns errors into output for the model. The claim is around it, because an exception inside
    would become output too.

    LangGraph gives answers to interrupts in order, and again in that order when the node runs again. So only one
    call may raise an interrupt in a pass: a second one would get the first one's answer. It waits for the next pass.
    """
    run, job = run_of(config), state["job"]
    calls = pending_of(state["messages"], job["response_id"], run.settings.function_names).calls
    asking = job.get("asking")
    unknown = await _unknown(run, job, calls)
    if bool(unknown) != (asking == THE_NODE):
        return {"job": {**job, "asking": THE_NODE if unknown else None}}
    if unknown:
        return await _ask(run, job, unknown)
    running = [call for call in calls if asking in (None, call["call_id"])]
    results = await asyncio.gather(
        *(_call(run, state, call, config) for call in running), return_exceptions=True
    )
    ended = next((result for result in results if isinstance(result, TurnEndedError)), None)
    if ended is not None and await is_latest(run, job["turn_id"]):
        return await fail_turn(run, job, ended)
    next_pass = _next_pass(job, running, results)
    if next_pass is not None:
        return {"job": next_pass}
    outputs = [output for result in results for output in cast("list[Output]", result)]
    return await _finish(run, job, outputs, config)


def _next_pass(job: Job, running: Sequence[Item], results: Sequence[Any]) -> Job | None:
    """The job for another pass of the node, where these results need one; ``None`` if they are the outputs.

    Raises:
        BaseException: What a call raised, its interrupt included.
    """
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, _BecameUnknown | GraphInterrupt):
            raise result
    if any(isinstance(result, _BecameUnknown) for result in results):
        return job  # The next pass asks.
    interrupts = [
        (str(call["call_id"]), result)
        for call, result in zip(running, results, strict=True)
        if isinstance(result, GraphInterrupt)
    ]
    if len(interrupts) > 1:
        return {**job, "asking": interrupts[0][0]}
    if interrupts:
        raise interrupts[0][1]
    if job.get("asking"):
        return {**job, "asking": None}  # The next pass runs the others.
    return None


async def _finish(run: Run, job: Job, outputs: Sequence[Output], config: RunnableConfig) -> Any:
    """The node's update once every call has its output: the next round, or a command for the parent graph."""
    commands = [output for output in outputs if isinstance(output, Command)]
    messages = [output for output in outputs if not isinstance(output, Command)]
    if any(command.graph == Command.PARENT for command in commands):
        if "|" not in str(config.get("configurable", {}).get("checkpoint_ns")):
            error = ConfigurationError(
                "A function handed over to the parent graph, and there is none: the supervisor runs by itself. "
                "The thread has everything so far. Embed the graph, or let the function return a text."
            )
            return await fail_turn(run, job, error)
        await run.ledger.end_turn(job["turn_id"])  # The parent continues: this turn has no next round.
        return [*commands, {"messages": messages}]
    update = await start_next_round(run, {**job, "call_permits": {}, "complaint": None}, messages)
    return [*commands, update] if commands else update


class _BecameUnknown(Exception):
    """The outcome of a call is unknown: the process that ran it is gone."""


async def _call(run: Run, state: SupervisorState, call: Item, config: RunnableConfig) -> list[Output]:
    """The outputs of one call: run now, or as recorded."""
    job, call_id = state["job"], str(call["call_id"])
    args = _arguments(call)
    if args is None:
        text = f"Error: the arguments of {call['name']} are not a JSON object. Call it again with one."
        return [_with_message_id(ToolMessage(text, tool_call_id=call_id, status="error"), job, call_id)]
    asked = AIMessage("", tool_calls=[ToolCall(name=call["name"], args=args, id=call_id, type="tool_call")])

    async def action(_attempt: int) -> dict[str, Any]:
        node = ToolNode(list(run.settings.functions), handle_tool_errors=True)
        result = await node.ainvoke({**state, "messages": [*state["messages"], asked]}, config)
        parts = result if isinstance(result, list) else [result]
        outputs = [
            output for part in parts for output in (part["messages"] if isinstance(part, dict) else [part])
        ]
        return _dump([_with_message_id(output, job, call_id) for output in outputs])

    permit = job.get("call_permits", {}).get(call_id)
    while True:
        result = await run_once(
            run.ledger,
            _key(job, call_id),
            action,
            lifetime_s=run.settings.call_lifetime_s,
            did_nothing=_stopped_to_ask,
            permit=permit,
        )
        if isinstance(result, Done):
            return _load(result.outcome)
        if not _repeatable(run, call["name"]):
            raise _BecameUnknown
        permit = result.attempt


def _stopped_to_ask(error: Exception) -> bool:
    """Whether a function stopped at an interrupt: once that is answered, it runs again from its beginning."""
    return isinstance(error, GraphBubbleUp) or is_invalid_resume(error)


async def _unknown(run: Run, job: Job, calls: Sequence[Item]) -> list[tuple[Item, Unknown]]:
    """Calls that a process began before it died, and that may not be repeated yet."""
    unknown = []
    for call in calls:
        call_id = str(call["call_id"])
        found = await peek(run.ledger, _key(job, call_id), lifetime_s=run.settings.call_lifetime_s)
        allowed = job.get("call_permits", {}).get(call_id)
        if isinstance(found, Unknown) and allowed != found.attempt and not _repeatable(run, call["name"]):
            unknown.append((call, found))
    return unknown


async def _ask(run: Run, job: Job, unknown: Sequence[tuple[Item, Unknown]]) -> dict[str, Any]:
    """Ask a person about unknown outcomes, or do what ``on_unknown_submission`` says: nothing is guessed."""
    permits = {str(call["call_id"]): found.attempt for call, found in unknown}
    if run.settings.on_unknown_submission == "ask" and run.resumable:
        actions = {str(call["call_id"]): _action(call, found) for call, found in unknown}
        answer = interrupt(
            interrupt_value("repeat_call", list(actions.values()), job["response_id"], job.get("complaint")),
            response_schema=answer_schema(list(actions)),
        )
        try:
            decisions = read_answer(answer, list(actions))
        except InvalidAnswerError as invalid:
            return {"job": {**job, "complaint": str(invalid)}}
        for call_id, decision in decisions.items():
            decision["asked"] = actions[call_id].asked
        return await _record_decisions(run, job, unknown, decisions)
    if run.settings.on_unknown_submission == "resubmit":
        return {"job": {**job, "call_permits": {**job.get("call_permits", {}), **permits}}}
    names = ", ".join(f"{call['name']} ({call['call_id']})" for call, _ in unknown)
    error = CallUnknownError(
        f"{names} was begun and cut off, and what it did is not known. It was not run again. The thread keeps "
        "everything so far. Find out what it did, then send a new message."
    )
    return await fail_turn(run, job, error)


async def _record_decisions(
    run: Run, job: Job, unknown: Sequence[tuple[Item, Unknown]], decisions: dict[str, Decision]
) -> dict[str, Any]:
    permits = dict(job.get("call_permits", {}))
    for call, found in unknown:
        call_id = str(call["call_id"])
        if call_id not in decisions:
            continue
        key = (job["round"], repeat_call_id(found.attempt, call_id))
        decision = await record_decision(run.ledger, job["turn_id"], key, decisions[call_id])
        if decision["approve"]:
            permits[call_id] = found.attempt
            continue
        why = f" ({decision['reason']})" if decision.get("reason") else ""
        text = f"Error: {call['name']} was cut off; what it did is not known, and it was not run again{why}."
        refused = _with_message_id(ToolMessage(text, tool_call_id=call_id, status="error"), job, call_id)
        await run.ledger.record(_key(job, call_id), found.attempt, _dump([refused]))
    return {"job": {**job, "call_permits": permits, "complaint": None}}


def _action(call: Item, unknown: Unknown) -> PendingAction:
    when = datetime.fromtimestamp(unknown.claimed_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    args = _arguments(call) or {}
    shown = json.dumps(args, ensure_ascii=False)
    return PendingAction(
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


def _with_message_id(output: Any, job: Job, call_id: str) -> Any:
    """The output with a message id made of response and call, so that the state never has it twice."""
    if isinstance(output, ToolMessage) and output.tool_call_id == call_id:
        return output.model_copy(update={"id": f"{job['response_id']}:output:{call_id}"})
    if isinstance(output, Command) and isinstance(output.update, dict) and "messages" in output.update:
        messages = [_with_message_id(message, job, call_id) for message in output.update["messages"]]
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
    except Exception:  # An artifact that cannot be stored must not make the call's outcome unknown.
        plain = [
            output.model_copy(update={"artifact": None}) if isinstance(output, ToolMessage) else output
            for output in outputs
        ]
        kind, data = _serde.dumps_typed(plain)
    return {"serde": kind, "outputs": base64.b64encode(data).decode()}


def _load(outcome: dict[str, Any]) -> list[Output]:
    loaded = _serde.loads_typed((outcome["serde"], base64.b64decode(outcome["outputs"])))
    return cast("list[Output]", loaded)
