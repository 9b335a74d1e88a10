"""`ask` with a workspace (the local supervisor plays it): what it prints, its exit codes, what it submits."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.support.local_supervisor_process import LocalSupervisor
from tests.support.processes import Warm, environment

APPROVALS = [
    {"name": "send", "server_label": "mail", "arguments": {"to": "ann"}},
    {"name": "post", "server_label": "chat", "arguments": {"text": "hi"}},
]


def asking(text: str, **behaviour: Any) -> str:
    return f"{text} [[local: {json.dumps(behaviour)}]]" if behaviour else text


def kinds(found: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [each for each in found if each["event"] == event]


def thread_of(found: list[dict[str, Any]]) -> str:
    return str(found[0]["thread_id"])


def test_an_answer_as_json(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    question = asking("hello", items=[{"type": "reasoning", "summary": []}], reply="Good day.")
    code, found = warm.ask(here, question, "--json", env=environment(service.url)).events()

    assert code == 0
    assert found[0]["event"] == "thread"
    assert [each["item"]["type"] for each in kinds(found, "item")] == ["reasoning", "message"]
    assert kinds(found, "progress")[-1]["status"] == "completed"
    job = service.submissions()["jobs"][0]["id"]
    assert {each["response_id"] for each in kinds(found, "item")} == {job}
    assert found[-1] == {
        "event": "end",
        "status": "completed",
        "thread_id": thread_of(found),
        "response_id": job,
        "text": "Good day.",
    }


def test_an_answer_in_plain_lines(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    code, out, err = warm.ask(here, "Which product sold best?", env=environment(service.url)).finish()

    assert (code, err) == (0, "")
    first = out.splitlines()[0]
    assert first.startswith("thread: ")
    assert f"uv run ask --thread {first.split()[1].rstrip(',')}" in first
    assert "→ system__ai__genie_query" in out
    assert "**Fjord Backpack** had the highest revenue" in out
    assert "\x1b" not in out
    assert "\r" not in out


def test_a_follow_up_and_a_finished_thread(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    env = environment(service.url)
    _, found = warm.ask(here, "Which product sold best?", "--json", env=env).events()
    thread = thread_of(found)
    code, followed = warm.ask(here, "And by region?", "--thread", thread, "--json", env=env).events()

    assert (code, thread_of(followed)) == (0, thread)
    assert "North America" in followed[-1]["text"]
    last = service.job(service.submissions()["jobs"][1]["id"])
    assert "Fjord Backpack" in json.dumps(last["request"]["input"])

    code, again = warm.ask(here, "--thread", thread, "--json", env=env).events()
    assert (code, kinds(again, "item")) == (0, [])
    assert kinds(again, "note")
    assert again[-1] == followed[-1]
    assert service.submissions()["count"] == 2


def test_a_failed_job(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    env = environment(service.url)
    question = asking("fail", final_status="failed", error={"code": "x", "message": "The model broke."})
    code, found = warm.ask(here, question, "--json", env=env).events()

    assert (code, found[-1]["status"]) == (1, "failed")
    (error,) = kinds(found, "error")
    assert error["code"] == "JobFailedError"
    assert "The model broke." in error["message"]

    code, _out, err = warm.ask(here, "--thread", thread_of(found), env=env).finish()
    assert code == 1
    assert err.startswith("Error: Job resp_")
    assert err.count("\n") == 1
    assert service.submissions()["count"] == 1


@pytest.mark.parametrize(
    ("arguments", "env", "error", "words"),
    [
        (["", "--json"], {}, "InvalidInputError", "question is empty"),
        (["--json"], {}, "UsageError", "Nothing to do"),
        (["hello", "--approve-all", "--deny-all", "--json"], {}, "UsageError", "contradict"),
        (["--thread", "never-was-000000", "--json"], {}, "NothingToResumeError", "ask again with the question"),
        (["--thread", " ", "--json"], {}, "UsageError", "not a thread id"),
        (["hello", "--json"], {"SUPERVISOR_POLL_INTERVAL": "soon"}, "SettingError", "SUPERVISOR_POLL_INTERVAL=soon"),
        (["hello", "--json"], {"SUPERVISOR_STATE_URL": "mysql://u:secret@h/d"}, "SettingError", "STATE_URL"),
        (["hello", "--json"], {"SUPERVISOR_STATE_URL": "sqlite:////dev/null/x.db"}, "StateError", "STATE_URL"),
        (["hello", "--json"], {"SUPERVISOR_REQUIRE_APPROVAL": '{"x": 1}'}, "UsageError", "require_approval"),
        (["hello", "--json"], {"DATABRICKS_HOST": "not a host"}, "UsageError", "DATABRICKS_HOST"),
        (["hello", "--no-local", "--json"], {"DATABRICKS_HOST": ""}, "UsageError", "No workspace is configured"),
    ],
)  # fmt: skip
def test_bad_input_submits_nothing(
    warm: Warm,
    here: Path,
    service: LocalSupervisor,
    arguments: list[str],
    env: dict[str, str],
    error: str,
    words: str,
) -> None:
    code, found = warm.ask(here, *arguments, env=environment(service.url) | env).events()

    assert (code, found[0]["event"], found[-1]["event"], found[-1]["status"]) == (
        2,
        "thread",
        "end",
        "failed",
    )
    (said,) = kinds(found, "error")
    assert said["code"] == error
    assert words in said["message"]
    assert "\n" not in said["message"]
    assert "secret" not in said["message"]
    assert service.submissions()["posts"] == 0


def test_an_option_that_does_not_exist(warm: Warm, here: Path) -> None:
    code, out, err = warm.ask(here, "hello", "--nonsense", env=environment()).finish()
    assert (code, out) == (2, "")
    assert "--nonsense" in err


def test_help_tells_the_exit_codes(warm: Warm, here: Path) -> None:
    code, out, _ = warm.ask(here, "--help", env=environment()).finish()
    assert code == 0
    assert "Exit codes: 0 answered" in out


def test_a_thread_of_another_graph(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    async def write() -> None:
        async with AsyncSqliteSaver.from_conn_string(str(here / "state.sqlite")) as saver:
            builder = StateGraph(MessagesState)
            builder.add_node("say", lambda state: {"messages": [{"role": "assistant", "content": "mine"}]})
            builder.add_edge(START, "say")
            builder.add_edge("say", END)
            await builder.compile(saver).ainvoke(
                {"messages": [{"role": "user", "content": "x"}]}, {"configurable": {"thread_id": "theirs"}}
            )

    asyncio.run(write())
    env = environment(service.url, SUPERVISOR_STATE_URL="sqlite:///state.sqlite")
    for arguments in (["hello"], []):
        code, found = warm.ask(here, *arguments, "--thread", "theirs", "--json", env=env).events()
        assert (code, kinds(found, "error")[0]["code"]) == (2, "ForeignThreadError")
    assert service.submissions()["posts"] == 0


def test_a_wrong_token(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    env = environment(service.url, DATABRICKS_TOKEN="wrong-dapi0123456789")
    code, out, err = warm.ask(here, "hello", env=env).finish()

    assert code == 3
    assert "401" in err
    assert err.count("\n") == 1
    assert "dapi0123456789" not in out + err
    assert "uv run ask --thread" in out.splitlines()[-1]
    assert service.submissions()["count"] == 0


def test_a_host_that_does_not_answer(warm: Warm, here: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{free.getsockname()[1]}"
        code, found = warm.ask(here, "hello", "--json", env=environment(host)).events()

    assert code == 3
    assert "Cannot reach" in kinds(found, "error")[0]["message"]
    assert found[-1]["status"] == "failed"


def test_an_approval_waits_and_is_given_later(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    env = environment(service.url)
    question = asking("write", reply="I will.", approvals=APPROVALS, rounds=[{"reply": "Done."}])
    code, found = warm.ask(here, question, "--json", env=env).events()

    assert (code, found[-1]["status"], found[-1]["text"]) == (4, "waiting", "I will.")
    (asked,) = kinds(found, "question")
    assert asked["kind"] == "mcp_approval"
    assert [action["args"] for action in asked["action_requests"]] == [{"to": "ann"}, {"text": "hi"}]

    thread = thread_of(found)
    code, out, _ = warm.ask(here, "--thread", thread, env=env).finish()
    assert code == 4
    assert "Approval needed: send on mail" in out
    assert "Approval needed: post on chat" in out
    assert "to: ann" in out
    assert f"--thread {thread}" in out
    assert "--approve-all" in out

    code, found = warm.ask(here, "--thread", thread, "--approve-all", "--json", env=env).events()
    assert (code, found[-1]["status"], found[-1]["text"]) == (0, "completed", "I will.\n\nDone.")
    answers = [each["item"] for each in kinds(found, "item") if "approve" in each["item"]]
    assert [answer["approve"] for answer in answers] == [True, True]
    assert service.submissions()["count"] == 2


def test_deny_all(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    env = environment(service.url)
    code, found = warm.ask(here, "Publish the sales by region", "--deny-all", "--json", env=env).events()

    assert code == 0
    (answer,) = [each["item"] for each in kinds(found, "item") if "approve" in each["item"]]
    assert answer["approve"] is False
    assert "refused" in found[-1]["text"]
    assert not (service.directory / "published.md").exists()


def test_a_function_of_this_side_is_run(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    code, found = warm.ask(here, "What time is it?", "--json", env=environment(service.url)).events()
    items = [each["item"] for each in kinds(found, "item")]

    assert code == 0
    (output,) = [item for item in items if item["type"] == "function_call_output"]
    assert "UTC" in output["output"]
    assert output["output"] in found[-1]["text"]


def test_an_unknown_submission_is_not_answered_by_approve_all(
    warm: Warm, here: Path, service: LocalSupervisor
) -> None:
    env = environment(service.url)
    question = asking("lost", create_errors=["drop"], create_errors_accept=True, reply="Here.")
    code, found = warm.ask(here, question, "--approve-all", "--json", env=env).events()
    assert (code, found[-1]["status"]) == (5, "unknown")
    assert kinds(found, "question")[0]["kind"] == "repeat_submission"
    assert service.submissions()["count"] == 1

    terminal = warm.terminal(here, "--thread", thread_of(found), env=env)
    terminal.until("It is not known whether the question arrived")
    terminal.until("Send the question again?")
    terminal.type("y\n")
    code, text = terminal.finish()
    assert code == 0
    assert "Here." in text
    assert service.submissions()["count"] == 2


def test_an_unknown_submission_is_given_up(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    terminal = warm.terminal(here, asking("lost", drop_create="after"), env=environment(service.url))
    terminal.until("Send the question again?")
    terminal.type("n\n")
    code, text = terminal.finish()

    assert code == 5
    assert "Error: The question was sent at" in text
    assert service.submissions()["count"] == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_while_the_job_runs(
    warm: Warm, here: Path, service: LocalSupervisor, number: int, code: int
) -> None:
    env = environment(service.url)
    first = warm.ask(here, asking("long", duration_s=3, reply="Late."), "--json", env=env)
    first.until("in_progress")
    first.signal(number)
    ended, found = first.events()
    assert (ended, found[-1]["status"]) == (code, "interrupted")

    ended, found = warm.ask(here, "--thread", thread_of(found), "--json", env=env).events()
    assert (ended, found[-1]["text"]) == (0, "Late.")
    assert service.submissions()["count"] == 1


def test_interrupted_during_the_post(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    env = environment(service.url)
    first = warm.ask(here, asking("slow", answer_delay_s=2, reply="Kept."), env=env)
    while service.submissions()["count"] == 0:
        time.sleep(0.02)
    first.signal(signal.SIGINT)
    code, out, err = first.finish()
    assert (code, err) == (130, "")
    assert "the job goes on" in out.splitlines()[-1]

    thread = out.split()[1].rstrip(",")
    code, out, _ = warm.ask(here, "--thread", thread, env=env).finish()
    assert code == 0
    assert "Kept." in out
    assert service.submissions()["count"] == 1


def test_killed_while_the_job_runs(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    env = environment(service.url)
    said = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
            for text in ("One.", "Two.")]  # fmt: skip
    first = warm.ask(here, asking("long", duration_s=4, items=said), "--json", env=env)
    first.until("One.")
    # What was printed last may not be on disk yet; a progress that follows it is.
    first.signal(signal.SIGKILL)
    code, out, _ = first.finish()
    assert code == -signal.SIGKILL

    thread = json.loads(out.splitlines()[0])["thread_id"]
    code, found = warm.ask(here, "--thread", thread, "--json", env=env).events()
    assert (code, found[-1]["text"]) == (0, "One.\n\nTwo.")
    assert "Two." in json.dumps(kinds(found, "item"))
    assert service.submissions()["count"] == 1


def test_approvals_one_after_the_other_at_a_terminal(
    warm: Warm, here: Path, service: LocalSupervisor
) -> None:
    env = environment(service.url)
    question = asking("write", approvals=APPROVALS, rounds=[{"reply": "**Done.**"}])
    terminal = warm.terminal(here, question, env=env)
    terminal.until("Approval needed: send on mail")
    terminal.until("Allow send?")
    terminal.type("perhaps\n")
    terminal.until("Allow send?")
    terminal.type("yes\n")
    terminal.until("Allow post?")
    terminal.type("l\n")
    code, text = terminal.finish()
    assert code == 4
    thread = text.split()[1].rstrip(",")
    assert f"uv run ask --thread {thread}" in " ".join(text.split())

    terminal = warm.terminal(here, "--thread", thread, env=env)
    terminal.until("Allow post?")
    terminal.type("n\n")
    terminal.until("Why?")
    terminal.type("not today\n")
    code, text = terminal.finish()
    assert code == 0
    assert "Allow send?" not in text
    assert "Done." in text
    assert "**" not in text

    last = service.job(service.submissions()["jobs"][1]["id"])
    given = [item for item in last["request"]["input"] if item.get("type") == "mcp_approval_response"]
    assert [(item["approve"], item.get("reason")) for item in given] == [(True, None), (False, "not today")]


def test_ctrl_c_at_a_prompt_answers_nothing(warm: Warm, here: Path, service: LocalSupervisor) -> None:
    env = environment(service.url)
    terminal = warm.terminal(here, asking("write", approvals=APPROVALS[:1]), env=env)
    terminal.until("Allow send?")
    terminal.type("\x03")
    code, text = terminal.finish()

    assert code == 130
    assert "Come back with: uv run ask --thread" in text
    code, _, _ = warm.ask(here, "--thread", text.split()[1].rstrip(","), env=env).finish()
    assert code == 4
    assert service.submissions()["count"] == 1


def test_the_same_question_again_is_one_job_while_it_runs(
    warm: Warm, here: Path, service: LocalSupervisor
) -> None:
    env = environment(service.url)
    question = asking("long", duration_s=2, reply="Once.")
    runs = [warm.ask(here, question, "--thread", "shared", "--json", env=env) for _ in range(2)]
    for run in runs:
        code, found = run.events()
        assert (code, found[-1]["text"]) == (0, "Once.")
    assert service.submissions()["count"] == 1


def test_state_in_postgres(warm: Warm, here: Path, service: LocalSupervisor, postgres_url: str) -> None:
    env = environment(service.url, SUPERVISOR_STATE_URL=postgres_url)
    runs = [warm.ask(here, asking(f"q{n}", reply=f"a{n}"), "--json", env=env) for n in range(3)]
    ended = [run.events() for run in runs]

    assert [(code, found[-1]["text"]) for code, found in ended] == [(0, "a0"), (0, "a1"), (0, "a2")]
    code, found = warm.ask(here, "--thread", thread_of(ended[0][1]), "--json", env=env).events()
    assert (code, found[-1]["text"]) == (0, "a0")
