"""Items of every type that the contract names, as hypothesis strategies."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

Item = dict[str, Any]

KEYS = ("id", "call_id", "name", "status", "output", "annotations", "namespace", "caller", "text", "x")

CITATION = {"type": "url_citation", "url": "https://example.com/" + "p" * 40, "title": "T"}
CITATION |= {"start_index": 0, "end_index": 1, "namespace": None}

# Surrogates, integers beyond 64 bits: JSON can hold them, checkpoints cannot.
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "Yes.", "ü–🙂", "a\x00b", "half \ud83d", "long " * 20, '{"a": 1}', "[1, 2.0]"]),
)
numbers = st.one_of(
    st.integers(-3, 3), st.sampled_from([1.0, -0.0, 2.5, 10**30, -(2**63) - 1]), st.booleans()
)
json_values = st.recursive(
    st.one_of(st.none(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=6,
)
ids = st.one_of(
    st.none(),
    st.sampled_from(["a", "b", "call_x", "m" * 70, "m" * 69 + "n", "m" * 64]),
)


def item(type_: str, required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Item]:
    """An item of one type: each key valid, null, rubbish or absent."""
    fields = {key: st.one_of(strategy, strategy, strategy, json_values) for key, strategy in required.items()}
    extra = {key: st.one_of(strategy, st.none()) for key, strategy in optional.items()}
    extra |= dict.fromkeys(("namespace", "caller", "async_"), st.none())
    extra["status"] = st.sampled_from(["completed", "in_progress", "incomplete", "queued", None, "odd"])
    return st.fixed_dictionaries({"type": st.just(type_), **fields}, optional=extra)


arguments = st.one_of(
    st.dictionaries(texts, json_values, max_size=2).map(json.dumps),
    st.dictionaries(texts, json_values, max_size=2).map(
        lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    ),
    texts,
    st.sampled_from(
        ['{"x": 1e999}', '{"x": NaN}', '{"n": 100000000000000000000000}', '{"a":1,  "a":2}', "null"]
    ),
)
parts = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["output_text", "input_text", "text"]),
            "text": st.one_of(texts, json_values),
        },
        optional={
            "annotations": st.one_of(
                st.none(),
                st.just([]),
                st.just([CITATION]),
                st.just([{**CITATION, "title": None}, CITATION, None]),
            ),
            "logprobs": st.one_of(st.none(), st.just([])),
        },
    ),
    st.fixed_dictionaries({"type": st.just("refusal"), "refusal": texts}),
    st.fixed_dictionaries(
        {"type": st.just("input_image")},
        optional={"image_url": st.sampled_from(["https://x/y.png", None]), "detail": st.just("high")},
    ),
    st.fixed_dictionaries(
        {"type": st.just("input_file")},
        optional={"file_data": st.just("data:text/plain;base64,aGk="), "filename": texts, "file_url": ids},
    ),
    json_values,
)
contents = st.one_of(texts, st.lists(parts, max_size=3), json_values)

messages = item(
    "message",
    {"role": st.sampled_from(["assistant", "user", "system", "developer", "tool"]), "content": contents},
    {"id": ids},
)
calls = item("function_call", {"call_id": ids, "name": texts, "arguments": arguments}, {"id": ids})
outputs = item(
    "function_call_output", {"call_id": ids, "output": st.one_of(texts, contents, json_values)}, {"id": ids}
)
reasoning = item(
    "reasoning",
    {
        "summary": st.lists(
            st.fixed_dictionaries({"type": st.just("summary_text"), "text": texts}), max_size=2
        )
    },
    {"id": ids, "encrypted_content": texts, "content": json_values},
)
requests = item(
    "mcp_approval_request",
    {"id": ids, "name": texts, "server_label": texts, "arguments": arguments},
    {},
)
responses = item(
    "mcp_approval_response",
    {"approval_request_id": ids, "approve": st.booleans()},
    {"id": ids, "reason": texts},
)
unknown = st.sampled_from(
    [
        *("mcp_call", "mcp_list_tools", "custom_tool_call", "compaction", "item_reference"),
        *("code_interpreter_call", "new_in_2031", ""),
    ]
).flatmap(lambda kind: item(kind, {"name": texts, "output": json_values}, {"id": ids}))
garbage = st.one_of(json_values, st.dictionaries(st.sampled_from(["type", *KEYS]), json_values, max_size=3))

known_items = st.one_of(messages, calls, outputs, reasoning, requests, responses)
dict_items = st.one_of(known_items, unknown)
any_items = st.one_of(dict_items, garbage)
