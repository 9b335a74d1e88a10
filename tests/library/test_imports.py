"""Who may import whom (DESIGN: The house)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "graph" / "databricks_supervisor"
SLOW = ["mlflow", "databricks_openai", "openai", "databricks", "psycopg", "sqlalchemy", "aiosqlite", "pandas"]


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if not {".venv", "build"} & set(path.parts))


def imports(path: Path, *, types_too: bool = False) -> Iterator[str]:
    """Full names of the modules that a file imports, at its top or within functions."""
    parts = path.relative_to(LIBRARY.parent if LIBRARY in path.parents else ROOT).parts
    for node in ast.walk(_pruned(path, types_too)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(parts[: -node.level]) if node.level else ""
            yield ".".join(part for part in (above, node.module) if part)


def _pruned(path: Path, types_too: bool) -> ast.Module:
    tree = ast.parse(path.read_text())
    if not types_too:
        tree.body = [
            node
            for node in tree.body
            if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ]
    return tree


def who_imports(*packages: str, folder: Path = LIBRARY) -> set[str]:
    """The files of a folder that import one of these packages."""
    return {
        str(path.relative_to(folder))
        for path in sources(folder)
        for name in imports(path)
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    }


def test_the_check_sees_imports() -> None:
    assert "langgraph.types" in set(imports(LIBRARY / "submit.py"))
    assert "httpx2" in set(imports(LIBRARY / "client.py"))
    assert any(name.endswith("errors") for name in imports(LIBRARY / "submit.py"))


def test_importing_the_library_is_light() -> None:
    """The SDKs take seconds to load, and not everybody has a database."""
    script = f"import databricks_supervisor, sys; print([name for name in {SLOW!r} if name in sys.modules])"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_three_modules_speak_http() -> None:
    assert who_imports(
        "openai", "httpx", "httpx2", "databricks", "databricks_openai", "aiohttp", "requests"
    ) == {
        "client.py",
        "clients.py",
        "transport.py",
    }


def test_the_ledger_alone_speaks_sql() -> None:
    speakers = who_imports("sqlalchemy", "aiosqlite", "sqlite3")
    assert speakers
    assert {name.split("/")[0] for name in speakers} == {"ledger"}
    # `ledgers` reads the address of a Postgres checkpointer, and asks the database nothing.
    assert {name for name in who_imports("psycopg") if not name.startswith("ledger/")} == {"ledgers.py"}


def test_the_inside_of_langgraph_is_touched_at_the_seam_alone() -> None:
    """``compiled`` and the entry of its runs; ``position`` reads where in a parent graph a run enters."""
    private = {
        (path.name, name)
        for path in sources(LIBRARY)
        for name in imports(path)
        if name.startswith("langgraph") and any(part.startswith("_") for part in name.split("."))
    }
    seam = {"compiled.py", "entry.py", "resuming.py"}
    assert {file for file, name in private if name.startswith("langgraph._internal")} == seam
    assert {file for file, _ in private} <= {*seam, "position.py"}, private


@pytest.mark.parametrize(
    "name",
    [
        "items/messages.py",
        "items/foreign.py",
        "items/history.py",
        "items/stories.py",
        "items/output.py",
        "items/echo.py",
        "schedule.py",
        "errors.py",
        "refusals.py",
        "tools.py",
        "policy.py",
    ],
)
def test_pure_functions_know_neither_the_engine_nor_the_wire(name: str) -> None:
    roots = {module.split(".")[0] for module in imports(LIBRARY / name, types_too=True)}
    assert not roots & {"langgraph", "openai", "httpx", "httpx2", "databricks", "asyncio", "sqlalchemy"}


def test_the_ledger_knows_nothing_of_graphs() -> None:
    assert not {name for name in who_imports("langgraph", "langchain_core") if name.startswith("ledger/")}
    for path in sources(LIBRARY / "ledger"):
        own = {name for name in imports(path) if name.startswith("databricks_supervisor")}
        assert all(
            name.startswith(("databricks_supervisor.ledger", "databricks_supervisor.errors")) for name in own
        )


def test_dependencies_point_one_way() -> None:
    assert who_imports("agent_server", "local_supervisor", "tests") == set()
    assert who_imports("local_supervisor", folder=ROOT / "agent_server") == set()
    assert who_imports("databricks_supervisor", "agent_server", folder=ROOT / "local_supervisor") == set()


def test_the_picture_shows_nodes_and_edges_and_nothing_else() -> None:
    tree = ast.parse((LIBRARY / "graph.py").read_text())
    functions = [
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert functions == ["create_supervisor_graph"]


@pytest.mark.parametrize("path", sources(LIBRARY), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
