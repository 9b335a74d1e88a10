"""The tree of errors, and texts without credentials in them."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import databricks_supervisor
from databricks_supervisor import errors
from databricks_supervisor.errors import JobError, ServiceError, SupervisorError
from databricks_supervisor.redaction import scrub

CLASSES = [getattr(errors, name) for name in errors.__all__]


def drawn() -> dict[str, str | None]:
    """The tree in the module's docstring: each class and its parent."""
    parents: dict[str, str | None] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ((?:[│ ]   )*)(?:[├└]── )?(\w+Error)\b", line)
        if found:
            depth = (line.index(found[2]) - 4) // 4
            parents[found[2]] = above[depth - 1] if depth else None
            above[depth:] = [found[2]]
    return parents


def test_the_drawing_shows_every_class_under_its_parent() -> None:
    real = {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}
    assert drawn() == {**real, "SupervisorError": None}


def test_every_error_is_a_supervisor_error_and_is_exported() -> None:
    defined = {
        name for name, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)
    assert sorted(errors.__all__) == errors.__all__
    for cls in CLASSES:
        assert issubclass(cls, SupervisorError)
        assert getattr(databricks_supervisor, cls.__name__) is cls
        assert cls.__name__ in databricks_supervisor.__all__


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_says_what_it_means_and_can_be_made_from_its_message_alone(
    cls: type[SupervisorError],
) -> None:
    assert cls.__doc__
    assert str(cls("what happened")) == "what happened"


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_the_way_between_processes(cls: type[SupervisorError]) -> None:
    error = cls("what happened")
    if isinstance(error, ServiceError):
        error.status_code = 403
    if isinstance(error, JobError):
        error.response_id, error.status = "resp_1", "failed"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == "what happened"
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    "cls", [errors.ConfigurationError, errors.InvalidInputError, errors.InvalidAnswerError]
)
def test_what_the_caller_gave_wrong_is_a_value_error(cls: type[Exception]) -> None:
    assert issubclass(cls, ValueError)


# ---- scrub


HEX = "0123456789abcdef"
SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def letters(alphabet: str, least: int = 8) -> st.SearchStrategy[str]:
    return st.text(alphabet=alphabet, min_size=least, max_size=60)


# Each kind of credential: the text that it occurs in, and the part of it that is secret.
CREDENTIALS: dict[str, st.SearchStrategy[tuple[str, str]]] = {
    "bearer": letters(SAFE + "._~+/=-").map(lambda value: (f"Bearer {value}", value)),
    "bearer in capitals": letters(SAFE).map(lambda value: (f"BEARER  {value}", value)),
    "basic": letters(SAFE + "+/=").map(lambda value: (f"Basic {value}", value)),
    "personal access token": letters(HEX, 32).map(lambda value: (f"dapi{value}", value)),
    "personal access token with a suffix": letters(HEX, 32).map(lambda value: (f"dapi{value}-2", value)),
    "oauth secret": letters(HEX, 32).map(lambda value: (f"dose{value}", value)),
    "openai key": letters(SAFE + "_-").map(lambda value: (f"sk-{value}", value)),
    "json web token": st.tuples(letters(SAFE + "_-"), letters(SAFE + "_-"), letters(SAFE + "_-")).map(
        lambda parts: (f"eyJ{parts[0]}.{parts[1]}.{parts[2]}", parts[1])
    ),
    "password in a url": letters(SAFE + "!$%").map(
        lambda value: (f"postgresql://ada:{value}@db:5432/x", value)
    ),
    "password with an at in a url": letters(SAFE).map(
        lambda value: (f"postgresql://ada:p@{value}@db/x", value)
    ),
    "password without a user in a url": letters(SAFE).map(lambda value: (f"redis://:{value}@db/x", value)),
    "token in a query": letters(SAFE).map(lambda value: (f"https://h/?access_token={value}&x=1", value)),
    "secret in a query": letters(SAFE).map(lambda value: (f"client_secret={value}", value)),
    "password in a conninfo": letters(SAFE).map(lambda value: (f"host=db password={value} user=ada", value)),
}
AROUND = st.text(max_size=20).map(lambda text: text + " ") | st.sampled_from(
    ["", "(", '"', "'", ":", "=", "_", "-", "\n", "é", "Authorization: ", '{"token": "']
)


@pytest.mark.parametrize("kind", CREDENTIALS)
@settings(deadline=None)
@given(data=st.data())
def test_no_credential_is_left_in_any_text(kind: str, data: st.DataObject) -> None:
    text, secret = data.draw(CREDENTIALS[kind])
    assume(text.count(secret) == 1)  # "password" may be a password too, and stays a word.
    before, after = (
        data.draw(AROUND),
        data.draw(st.sampled_from(["", " ", ")", '"', "'", ",", "\n", ". And so on"])),
    )
    assert secret not in scrub(before + text + after).replace(before, "", 1)


@settings(deadline=None)
@given(
    secret=st.text(min_size=4, max_size=40).filter(lambda text: not text.isspace()),
    scheme=st.sampled_from(["", "Bearer ", "Basic ", "Token "]),
    before=st.text(max_size=20),
    after=st.text(max_size=20),
)
def test_a_known_secret_is_taken_out_whatever_it_looks_like(
    secret: str, scheme: str, before: str, after: str
) -> None:
    secret = secret.strip().replace(" ", "_")
    if len(secret) < 4 or secret in "[redacted]" or secret in before + after:
        return
    assert secret not in scrub(f"{before}{secret}{after}", f"{scheme}{secret}")


@settings(deadline=None)
@given(st.text())
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    assert scrub(scrub(text)) == scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        "Job resp_0123456789abcdef not found (404): it expired or was deleted.",
        "risk-assessment of the task-management in disk-shaped form",
        "the bearer of bad news",
        "basic needs",
        "https://workspace.cloud.databricks.com/explore/connections/web?o=1",
        "catalog.schema.function: eyJ",
        "https://h/path:80/x@y",
        "",
    ],
)
def test_texts_without_credentials_stay_as_they_are(text: str) -> None:
    assert scrub(text) == text


def test_nothing_is_known_to_be_secret_of_an_empty_or_tiny_value() -> None:
    assert scrub("a b c", "", "a", "Bearer b") == "a b c"
