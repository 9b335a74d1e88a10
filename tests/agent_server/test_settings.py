"""Settings: where they come from, and what a wrong one says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent_server.settings import AppSettings, SettingError, load_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in AppSettings.model_fields:
        monkeypatch.delenv(f"SUPERVISOR_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_environment_wins_over_env_and_the_command_line_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("SUPERVISOR_MODEL=file\nSUPERVISOR_POLL_INTERVAL=2\nOTHER=1\n")
    assert (load_settings().model, load_settings().poll_interval) == ("file", 2.0)
    monkeypatch.setenv("SUPERVISOR_MODEL", "environment")
    assert load_settings().model == "environment"
    assert load_settings(model="given").model == "given"
    assert load_settings(model=None).model == "environment"


def test_an_empty_one_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_POLL_INTERVAL", "")
    assert load_settings().poll_interval == "auto"


def test_an_approval_policy_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_REQUIRE_APPROVAL", '{"never": {"tool_names": ["search"]}}')
    assert load_settings().require_approval == {"never": {"tool_names": ["search"]}}
    monkeypatch.setenv("SUPERVISOR_REQUIRE_APPROVAL", "never")
    assert load_settings().require_approval == "never"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODEL", "  "),
        ("POLL_INTERVAL", "fast"),
        ("POLL_INTERVAL", "0"),
        ("POLL_INTERVAL", "nan"),
        ("CREATE_TIMEOUT_S", "-1"),
        ("REQUIRE_APPROVAL", "sometimes"),
        ("REQUIRE_APPROVAL", "[1]"),
        ("ON_UNKNOWN_SUBMISSION", "guess"),
        ("DURABILITY", "async"),
        ("TOOLS", "all"),
        ("STATE_URL", "state.sqlite"),
        ("STATE_URL", "sqlite://"),
        ("STATE_URL", "sqlite:///:memory:"),
        ("STATE_URL", "mysql://user:hunter2@host/db"),
        ("STATE_URL", "postgresql://user:hunter2@host:port/db"),
        ("STATE_URL", "postgresql://user:hunt/hunter2@host/db"),
        ("STATE_URL", "lakebase://user:hunter2@instance"),
        ("STATE_URL", "lakebase://projects/agents"),
        ("BACKEND", "databricks"),
        ("BACKEND", "apps/"),
        ("BACKEND", "apps/Not a name"),
        ("AUTH", "both"),
        ("LOCAL", "perhaps"),
        ("UI", "perhaps"),
    ],
)
def test_a_wrong_one_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"SUPERVISOR_{name}", value)
    with pytest.raises(SettingError) as raised:
        load_settings()
    said = str(raised.value)
    assert said.startswith(f"SUPERVISOR_{name}")
    assert "\n" not in said
    assert "hunter2" not in said


@pytest.mark.parametrize("backend", ["openai", "apps/sales-agent"])
def test_users_are_known_to_the_supervisor_alone(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("SUPERVISOR_AUTH", "user")
    assert load_settings().auth == "user"
    monkeypatch.setenv("SUPERVISOR_BACKEND", backend)
    with pytest.raises(
        SettingError, match=rf"^SUPERVISOR_AUTH=user with SUPERVISOR_BACKEND={backend}: "
    ) as said:
        load_settings(model="m")
    assert "\n" not in str(said.value)


def test_an_app_is_asked_for_by_name_unless_a_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_BACKEND", "apps/sales-agent")
    assert (load_settings().app, load_settings().model) == ("sales-agent", "apps/sales-agent")
    assert load_settings(model="other").model == "other"
    assert load_settings(local=True).model == "databricks-claude-sonnet-4-5"


def test_another_service_needs_the_name_of_a_model_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_BACKEND", "openai")
    with pytest.raises(SettingError, match=r"^SUPERVISOR_MODEL: "):
        load_settings()
    assert load_settings(model="gpt").model == "gpt"


def test_a_state_url_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STATE_URL", "postgresql://user:hunter2@host/db")
    assert "hunter2" not in repr(load_settings())


def test_every_one_is_in_the_example() -> None:
    documented = set(re.findall(r"SUPERVISOR_([A-Z_]+)=", (ROOT / ".env.example").read_text()))
    assert documented == {name.upper() for name in AppSettings.model_fields}


def test_the_defaults_of_the_example_are_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    given = [line.removeprefix("# ") for line in lines if line.startswith("# SUPERVISOR_")]
    (tmp_path / ".env").write_text("\n".join(line for line in given if "INSTRUCTIONS" not in line))
    assert load_settings() == AppSettings(_env_file=None)  # type: ignore[call-arg]
