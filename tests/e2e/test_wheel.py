"""What an embedding application installs: the wheel, beside code whose names it must not take."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.scenario import ITEMS, PACE
from tests.support.local_supervisor_process import ROOT, LocalSupervisor

GRAPH = """
from databricks_supervisor import create_supervisor_graph
from langgraph.checkpoint.memory import InMemorySaver

supervisor = create_supervisor_graph(model="m", polling=0.1).compile(checkpointer=InMemorySaver())
"""
MAIN = """
import json
import sys

import databricks_supervisor

import graph
import agent_server

loaded = [name for name in ("databricks_openai", "mlflow", "sqlalchemy") if name in sys.modules]
question = {"messages": [{"role": "user", "content": sys.argv[1]}]}
state = graph.supervisor.invoke(question, {"configurable": {"thread_id": "t"}})
print(json.dumps({
    "library": databricks_supervisor.__file__,
    "graph": graph.__file__,
    "agent_server": agent_server.__file__,
    "loaded": loaded,
    "texts": [message.text for message in state["messages"]],
}))
"""


def run(*command: str | Path, **kwargs: Any) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=280, check=False, **kwargs
    )
    assert done.returncode == 0, f"{command[:4]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def uv() -> str:
    found = shutil.which("uv") or os.environ.get("UV", "")
    assert found, "uv is needed to build and install the wheel"
    return found


@pytest.fixture(scope="module")
def wheel(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(uv, "build", "--wheel", "--out-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"databricks_supervisor"}
    assert "databricks_supervisor/py.typed" in names
    sources = {str(file.relative_to(ROOT / "graph")) for file in (ROOT / "graph").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources


def test_importing_the_library_loads_neither_the_sdk_nor_mlflow() -> None:
    code = "import sys, databricks_supervisor; print({'databricks_openai', 'mlflow'} & {*sys.modules})"
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == "set()"


def test_the_wheel_works_beside_a_graph_and_an_agent_server_of_the_applications_own(
    uv: str, wheel: Path, service: LocalSupervisor, tmp_path: Path
) -> None:
    """The dependencies are borrowed from this environment; the test below installs them."""
    python = new_environment(uv, tmp_path)
    run(uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel)
    (packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    borrowed = next(path for path in site.getsitepackages() if path.endswith("site-packages"))
    # A plain entry: what is installed here as editable is not found through it.
    (packages / "borrowed.pth").write_text(borrowed)
    check(python, service, tmp_path)


@pytest.mark.full
def test_the_wheel_works_in_an_empty_environment(
    uv: str, wheel: Path, service: LocalSupervisor, tmp_path: Path
) -> None:
    python = new_environment(uv, tmp_path)
    run(uv, "pip", "install", "--quiet", "--python", python, wheel)
    check(python, service, tmp_path)


def new_environment(uv: str, folder: Path) -> Path:
    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "environment")
    return folder / "environment" / "bin" / "python"


def check(python: Path, service: LocalSupervisor, folder: Path) -> None:
    """Run an application that has modules of its own with names that are often taken."""
    application = folder / "application"
    (application / "agent_server").mkdir(parents=True)
    (application / "graph.py").write_text(GRAPH)
    (application / "main.py").write_text(MAIN)
    (application / "agent_server" / "__init__.py").touch()
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
        },
        "DATABRICKS_HOST": service.url,
        "DATABRICKS_TOKEN": "x",
        "NO_PROXY": "127.0.0.1",
    }
    question = f"Something for the wheel. [[local: {json.dumps(PACE)}]]"
    output = run(python, "main.py", question, cwd=application, env=environment)
    said = json.loads(output.splitlines()[-1])
    assert Path(said["library"]).is_relative_to(folder / "environment")
    assert Path(said["graph"]) == application / "graph.py"
    assert Path(said["agent_server"]).is_relative_to(application)
    assert said["loaded"] == []
    assert said["texts"][1:] == [item["content"][0]["text"] for item in ITEMS]
