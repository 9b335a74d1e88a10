"""The demonstration's figures, against sums that are computed here from the file alone."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from typing import Any

import pytest

from local_supervisor.demo.intent import understand
from local_supervisor.demo.report import write_report
from local_supervisor.demo.sales import CSV_FILE
from tests.local_supervisor.conftest import Client, sendable, text_of, user

APP = {"type": "app", "app": {"name": "publisher"}}
CLOCK = {"type": "function", "name": "get_current_time"}


def sums(column: str, measure: str = "revenue", **wanted: str) -> dict[str, float]:
    """Sums by a column of the records whose columns start with what is wanted."""
    found: dict[str, float] = defaultdict(float)
    with CSV_FILE.open(newline="") as file:
        for row in csv.DictReader(file):
            if all(row[key].startswith(value) for key, value in wanted.items()):
                found[row[column]] += float(row[measure])
    return dict(found)


def answer(question: str, *earlier: str) -> str:
    return write_report(understand(question, list(earlier))).text


def dollars(value: float) -> str:
    return f"${value:,.0f}"


def test_the_best_product_of_the_last_quarter() -> None:
    now, before = sums("product", quarter="2026-Q3"), sums("product", quarter="2026-Q2")
    best = max(now, key=lambda name: now[name])

    text = answer("Which product sold best last quarter?")

    assert text.startswith(f"**{best}** had the highest revenue in 2026-Q3: **{dollars(now[best])}**")
    assert f"{now[best] / before[best] - 1:+.1%}" in text
    assert dollars(sum(now.values())) in text
    assert all(dollars(value) in text for value in now.values())


def test_a_follow_up_takes_from_the_question_before_what_it_does_not_say() -> None:
    by_region = sums("region", quarter="2025-Q4", product="Drift Speaker")

    text = answer("and by region?", "How did the Drift Speaker sell in Q4 2025?")

    assert all(f"| {name} " in text and dollars(value) in text for name, value in by_region.items())


def test_the_worst_region_of_a_named_quarter() -> None:
    by_region = sums("region", quarter="2024-Q1")
    worst = min(by_region, key=lambda name: by_region[name])

    assert f"**{worst}** had the lowest revenue in 2024-Q1: **{dollars(by_region[worst])}**" in answer(
        "Which region was the worst in Q1 2024?"
    )


def test_units_of_a_named_product_in_a_year() -> None:
    units = sum(sums("product", "units", quarter="2025", product="Boreal Kettle").values())

    assert f"{units:,.0f} units" in answer("How many units of the kettle did we sell in 2025?")


def test_a_year_that_is_not_over_is_compared_with_the_same_quarters() -> None:
    now = sum(sums("quarter", quarter="2026").values())
    before = sum(value for quarter, value in sums("quarter", quarter="2025").items() if quarter < "2025-Q4")

    text = answer("Total sales this year")

    assert dollars(now) in text
    assert f"{now / before - 1:+.1%} against 2025-Q1 to Q3" in text


def test_a_trend_over_quarters_for_a_region() -> None:
    by_quarter = sums("quarter", region="Europe")

    text = answer("Show the revenue trend over time for Europe")

    for quarter in sorted(by_quarter)[-8:]:
        assert f"| {quarter} " in text
        assert dollars(by_quarter[quarter]) in text


def test_a_comparison_of_two_years_by_category() -> None:
    then, now = sums("category", quarter="2024"), sums("category", quarter="2025")

    text = answer("Compare 2024 and 2025 by category")

    for name in now:
        change = f"{now[name] / then[name] - 1:+.1%}"
        assert f"| {name} | {dollars(then[name])} | {dollars(now[name])} | {change} |" in text


def test_the_product_that_grew_fastest() -> None:
    then, now = sums("product", quarter="2026-Q2"), sums("product", quarter="2026-Q3")
    fastest = max(now, key=lambda name: now[name] / then[name])

    assert f"Best development: **{fastest}**" in answer("Which product grew fastest last quarter?")


@pytest.mark.parametrize("question", ["What is the meaning of life?", "Sales in 2019", "Best pizza in town?"])
def test_what_the_data_does_not_hold_is_said(question: str) -> None:
    text = answer(question, "Which product sold best last quarter?")

    assert "360 records" in text
    assert "2023-Q1 to 2026-Q3" in text


def test_a_run_has_steps_whose_queries_give_their_results(client: Client) -> None:
    output = client.run([user("Which product sold best last quarter?")])["output"]

    kinds = [item["type"] for item in output]
    assert kinds == ["reasoning", *["function_call", "function_call_output"] * 2, "message"]
    assert "GROUP BY product" in json.loads(output[1]["arguments"])["query"]
    assert output[2]["call_id"] == output[1]["call_id"]
    assert f"{sums('product', quarter='2026-Q3')['Fjord Backpack']:.2f}".rstrip("0") in output[2]["output"]


def test_conversations_are_understood_over_the_wire(client: Client) -> None:
    first = user("Which product sold best last quarter?")
    output = client.run([first])["output"]

    second = client.run([first, *[sendable(item) for item in output], user("and by region?")])

    assert "North America" in text_of(second)
    # the history at the head: calls, their outputs and the message, without the reasoning
    assert len(second["output"]) == 2 * len(output) - 1


def decision(request: dict[str, Any], approve: bool) -> dict[str, Any]:
    call_id = request["id"]
    return {
        "type": "mcp_approval_response", "id": call_id, "approval_request_id": call_id, "approve": approve,
    }  # fmt: skip


def test_publishing_runs_the_real_tool_after_the_approval_only(client: Client) -> None:
    question = user("Which product sold best last quarter? Publish it to #sales.")
    request = client.run([question], tools=[APP])["output"][-1]
    published = client.service.directory / "published.md"
    assert (request["type"], request["server_label"]) == ("mcp_approval_request", "publisher")
    assert not published.exists()

    refused = client.run([question, request, decision(request, False)], tools=[APP])
    assert "refused" in text_of(refused)
    assert not published.exists()

    approved = client.run([question, request, decision(request, True)], tools=[APP])
    assert approved["output"][0]["call_id"] == request["id"]
    assert "was published" in approved["output"][0]["output"]
    assert "was published" in text_of(approved)
    assert published.read_text().count("# Sales by product, 2026-Q3") == 1


@pytest.mark.parametrize(
    "question", ["What share of the revenue in Europe had the Drift Speaker?", "Total sales"]
)
def test_nothing_is_published_unasked(client: Client, question: str) -> None:
    assert client.run([user(question)], tools=[APP])["output"][-1]["type"] == "message"


def test_publishing_it_means_what_was_asked_before(client: Client) -> None:
    items = [
        user("Which region is best in 2025?"),
        {"role": "assistant", "content": "…"},
        user("Publish it."),
    ]

    request = client.run(items, tools=[APP])["output"][-1]

    assert json.loads(request["arguments"])["title"] == "Sales by region, 2025"


def test_a_tool_that_was_cut_off_by_a_kill_is_not_run_twice(own_service: Any) -> None:
    client = Client(own_service)
    question = user("Publish the sales of last quarter to #sales.", duration_s=0.05)
    request = client.run([question], tools=[APP])["output"][-1]
    job_id = client.create([question, request, decision(request, True)], tools=[APP])["id"]

    own_service.restart()

    assert "may have run" in client.finish(job_id)["output"][0]["output"]
    client.close()


def test_the_time_comes_from_the_clients_function(client: Client) -> None:
    question = user("What time is it, and which region is best?")
    call = client.run([question], tools=[CLOCK])["output"][-1]
    assert (call["type"], call["name"]) == ("function_call", "get_current_time")

    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "12:34"}
    text = text_of(client.run([question, sendable(call), output], tools=[CLOCK]))

    assert "12:34" in text
    assert "North America" in text
