"""What import-linter (contracts in ``pyproject.toml``) cannot say: private modules, and what is loaded late."""

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


def imported_names(path: Path) -> Iterator[str]:
    """Everything that a file imports, at its top or within functions, with the names that it takes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_importing_the_library_is_light() -> None:
    """The SDKs take seconds to load, and not everybody has a database."""
    script = f"import databricks_supervisor, sys; print([name for name in {SLOW!r} if name in sys.modules])"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_one_module_knows_what_is_private_in_langgraph() -> None:
    private = {
        str(path.relative_to(LIBRARY))
        for path in sources(LIBRARY)
        for name in imported_names(path)
        if name.startswith("langgraph") and any(part.startswith("_") for part in name.split("."))
    }
    assert private == {"entry/langgraph_internals.py"}


def test_the_picture_shows_nodes_and_edges_and_nothing_else() -> None:
    tree = ast.parse((LIBRARY / "graph.py").read_text())
    functions = [
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert functions == ["create_supervisor_graph"]


@pytest.mark.parametrize("path", sources(LIBRARY), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert (ast.get_docstring(ast.parse(path.read_text())) or "").strip(" .")
