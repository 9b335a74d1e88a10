"""The service as a process: what survives its death, how it ends, and the client that it is made for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import httpx
import pytest
from databricks.sdk import WorkspaceClient
from databricks_openai import AsyncDatabricksOpenAI

from tests.local_supervisor.conftest import Client, text_of, user
from tests.support.local_supervisor_process import RESPONSES, LocalSupervisor


def test_jobs_counts_and_settings_survive_a_kill(own_service: LocalSupervisor) -> None:
    client = Client(own_service)
    own_service.set_behaviour(echo="none")
    question = user("hello", create_errors=[503, 503], polls_to_finish=3, reply="hi")
    assert client.post([question]).status_code == 503
    url, pid = own_service.url, own_service.pid

    own_service.restart()
    assert (own_service.url == url, own_service.pid == pid) == (True, False)
    assert client.post([question]).status_code == 503
    job_id = client.create([question])["id"]
    assert client.retrieve(job_id)["status"] == "in_progress"

    own_service.restart()
    assert client.retrieve(job_id)["status"] == "in_progress"
    assert text_of(client.retrieve(job_id)) == "hi"
    submissions = own_service.submissions()
    assert (submissions["count"], submissions["posts"], submissions["jobs"][0]["polls"]) == (1, 3, 3)
    assert httpx.get(own_service.url + "/_local/behaviour", trust_env=False).json()["echo"] == "none"
    client.close()


def test_jobs_go_on_while_the_service_is_dead(own_service: LocalSupervisor) -> None:
    client = Client(own_service)
    job_id = client.create([user("hello", duration_s=0.05, reply="hi")])["id"]
    own_service.restart()

    assert client.finish(job_id)["status"] == "completed"
    client.close()


def test_it_ends_with_open_connections(own_service: LocalSupervisor) -> None:
    with socket.create_connection(("127.0.0.1", own_service.port)) as idle:
        idle.sendall(b"POST " + RESPONSES.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        pid = own_service.pid
        own_service.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_token_may_be_asked_for(tmp_path: Path) -> None:
    with LocalSupervisor(tmp_path / "data", token="secret") as service:
        client = Client(service)
        assert client.post([user("a")]).status_code == 401
        assert client.post([user("a")], {"authorization": "Bearer secret"}).status_code == 200
        stored = b"".join(file.read_bytes() for file in service.directory.iterdir())
        assert b"secret" not in stored
        client.close()


async def test_the_databricks_client_talks_to_it(service: LocalSupervisor) -> None:
    service.reset()
    client = AsyncDatabricksOpenAI(
        workspace_client=WorkspaceClient(host=service.url, token="x"), use_ai_gateway=True
    )
    question = user("hello", polls_to_finish=1, reply="hi")
    created = await client.responses.create(
        model="databricks-claude-sonnet-4-5", input=[question], background=True, stream=False
    )
    finished = await client.responses.retrieve(created.id)
    await client.close()

    assert created.status == "queued"
    assert finished.output_text == "hi"
    assert service.submissions()["count"] == 1
