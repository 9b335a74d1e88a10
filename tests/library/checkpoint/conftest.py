"""Fixtures of the checkpoints' tests: where checkpoints and ledger are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.library.checkpoint.saver_places import Place


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(str(tmp_path / "state.sqlite"))
    return Place(request.getfixturevalue("postgres_url"))


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "state.sqlite"))
