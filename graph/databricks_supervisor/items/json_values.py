"""JSON values: canonical text, values that a checkpoint can store, and the arguments of calls."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

Item = dict[str, Any]

_MAX_DEPTH: Final = 100
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def canonical(value: object) -> str:
    """Canonical JSON text: equal for equal values, independent of key order; ``1``, ``1.0`` and ``true`` differ.

    Example:
        >>> canonical({"b": 1, "a": [1.0, None]})
        '{"a":[1.0,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def is_json_safe(value: object, depth: int = 0) -> bool:
    """Whether a checkpoint can store a JSON value: no integers over 64 bits, no lone surrogates, no NaN."""
    match value:
        case bool() | None:
            return True
        case str():
            return not _SURROGATE.search(value)
        case int():
            return -(2**63) <= value < 2**63
        case float():
            return math.isfinite(value)
        case list():
            return depth < _MAX_DEPTH and all(is_json_safe(inner, depth + 1) for inner in value)
        case dict():
            return depth < _MAX_DEPTH and all(
                is_json_safe(key) and is_json_safe(inner, depth + 1) for key, inner in value.items()
            )
    return False


def json_safe(value: Any, depth: int = 0) -> Any:
    """A copy with every part that :func:`is_json_safe` rejects replaced by text.

    Example:
        >>> json_safe({"n": 10**30, "text": "a" + chr(0xD800)})
        {'n': '1000000000000000000000000000000', 'text': 'a?'}
    """
    match value:
        case str():
            return value.encode("utf-8", "replace").decode("utf-8")
        case list() if depth < _MAX_DEPTH:
            return [json_safe(inner, depth + 1) for inner in value]
        case dict() if depth < _MAX_DEPTH:
            return {json_safe(str(key)): json_safe(inner, depth + 1) for key, inner in value.items()}
        case list() | dict():
            return "…"
    return value if is_json_safe(value) else str(value)


def parse_object(arguments: object) -> dict[str, Any] | None:
    """A call's ``arguments`` as an object: ``{}`` if they are missing or empty, ``None`` if they are not an object.

    Example:
        >>> parse_object('{"a": 1}'), parse_object(""), parse_object("[1]")
        ({'a': 1}, {}, None)
    """
    if arguments is None or arguments == "":
        return {}
    try:
        parsed = json.loads(arguments, parse_constant=_refuse) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
