"""Answers an intent: the SQL, its results, and a text whose figures all come from the results."""

from __future__ import annotations

from dataclasses import dataclass, field

from .intent import Intent, name_of, quarters_before, quarters_of
from .sales import Sales, Table, markdown_table, sales


@dataclass(frozen=True)
class Query:
    """A query and its result."""

    why: str
    sql: str
    result: Table


@dataclass
class Report:
    """An answer and its queries."""

    title: str
    thought: str
    text: str = ""
    queries: list[Query] = field(default_factory=list)

    def run(self, data: Sales, why: str, sql: str) -> Table:
        """Run a query and record it."""
        self.queries.append(Query(why, sql, data.query(sql)))
        return self.queries[-1].result


def write_report(intent: Intent) -> Report:
    """Answer an intent from the data set, or describe the data set."""
    data = sales()
    if not intent.understood:
        return _what_there_is(data)
    outside = [period for period in intent.periods if not quarters_of(period)]
    if outside:
        return _what_there_is(data, f"There is no data for {' and '.join(outside)}. ")
    if intent.dimension in ("quarter", "year"):
        return _trend(data, intent)
    if len(intent.periods) >= 2:
        return _comparison(data, intent, quarters_of(intent.periods[0]), quarters_of(intent.periods[1]))
    period = intent.periods[0] if intent.periods else data.quarters[-1]
    now, then = quarters_of(period), quarters_before(period)
    return _comparison(data, intent, then, now) if intent.growth else _breakdown(data, intent, now, then)


def _what_there_is(data: Sales, reason: str = "") -> Report:
    report = Report("What the data set holds", "Check what the data set covers before answering.")
    found = report.run(
        data,
        "extent",
        "SELECT COUNT(*) AS records, MIN(quarter) AS first_quarter, MAX(quarter) AS last_quarter,\n"
        "       COUNT(DISTINCT product) AS products, COUNT(DISTINCT region) AS regions FROM sales",
    ).rows[0]
    report.text = (
        f"{reason}I can only answer from one small data set, and I did not find an answer to this in it. "
        f"It holds {found[0]} records of quarterly sales (units and revenue) from {found[1]} to {found[2]}, "
        f"of {found[3]} products ({', '.join(data.products)}) "
        f"in {found[4]} regions ({', '.join(data.regions)}).\n\n"
        "Try: *Which product sold best last quarter?* · *And by region?* · *Show the trend of the "
        f"{data.products[0]}.*"
    )
    return report


def _breakdown(data: Sales, intent: Intent, quarters: list[str], quarters_then: list[str]) -> Report:
    """One period by product, region or category, with the change from the period before."""
    dimension = _dimension(intent)
    measure = intent.measure or "revenue"
    period, before = name_of(quarters), name_of(quarters_then)
    report = Report(
        f"Sales by {dimension}, {period}",
        f"Sum up {measure} by {dimension} for {period}, then compare with {before}.",
    )
    now = report.run(data, period, _by(dimension, intent, quarters, measure))
    then = report.run(data, before, _by(dimension, intent, quarters_then, measure))
    column = 2 if measure == "revenue" else 1
    previous = {row[0]: _number(row[column]) for row in then.rows}
    total = sum(_number(row[column]) for row in now.rows)
    rows = list(reversed(now.rows)) if intent.order == "worst" else now.rows
    if not rows:
        return _what_there_is(data, "Nothing in the data matches this. ")
    lines = [
        [
            str(row[0]), f"{_number(row[1]):,.0f}", f"${_number(row[2]):,.0f}",
            f"{_number(row[column]) / total:.1%}", _change(_number(row[column]), previous.get(row[0])),
        ]
        for row in rows
    ]  # fmt: skip
    change = _change(total, sum(previous.values()))
    against = f" ({change} against {before})" if previous else ""
    head = f"**Total {measure}{_scope(intent)} in {period}: {_shown(total, measure)}**{against}."
    if len(rows) > 1:
        word = "lowest" if intent.order == "worst" else "highest"
        share = f"{_number(rows[0][column]) / total:.1%}"
        first = f"**{rows[0][0]}** had the {word} {measure}{_scope(intent)} in {period}: "
        first += f"**{_shown(_number(rows[0][column]), measure)}**, {share} of the total."
        head = f"{first}\n\n{head}" if intent.order else f"{head} {first}"
    table = markdown_table([dimension.capitalize(), "Units", "Revenue", "Share", f"vs {before}"], lines)
    report.text = f"{head}\n\n{table}"
    return report


def _comparison(data: Sales, intent: Intent, first: list[str], second: list[str]) -> Report:
    """Two periods side by side."""
    dimension = _dimension(intent)
    measure = intent.measure or "revenue"
    one, other = name_of(first), name_of(second)
    report = Report(
        f"{one} and {other} by {dimension}",
        f"Sum up {measure} by {dimension} for {one} and {other}, then compare.",
    )
    column = 2 if measure == "revenue" else 1
    results = [
        report.run(data, name_of(quarters), _by(dimension, intent, quarters, measure))
        for quarters in (first, second)
    ]
    sums = [{str(row[0]): _number(row[column]) for row in result.rows} for result in results]
    names = [name for name in sums[1] if name in sums[0]]
    if not names:
        return _what_there_is(data, f"There is nothing to compare between {one} and {other}. ")
    names.sort(key=lambda name: sums[1][name] / sums[0][name], reverse=intent.order != "worst")
    lines = [
        [
            name,
            _shown(sums[0][name], measure),
            _shown(sums[1][name], measure),
            _change(sums[1][name], sums[0][name]),
        ]
        for name in names
    ]
    totals = [sum(by_name.values()) for by_name in sums]
    grown, fallen = (
        max(names, key=lambda n: sums[1][n] / sums[0][n]),
        min(names, key=lambda n: sums[1][n] / sums[0][n]),
    )
    text = (
        f"**{measure.capitalize()}{_scope(intent)} went from {_shown(totals[0], measure)} in {one} to "
        f"{_shown(totals[1], measure)} in {other}** ({_change(totals[1], totals[0])})."
    )
    if len(names) > 1:
        text += (
            f" Best development: **{grown}** ({_change(sums[1][grown], sums[0][grown])}); "
            f"weakest: **{fallen}** ({_change(sums[1][fallen], sums[0][fallen])})."
        )
    report.text = f"{text}\n\n{markdown_table([dimension.capitalize(), one, other, 'Change'], lines)}"
    return report


def _trend(data: Sales, intent: Intent) -> Report:
    """One sum for each quarter or year."""
    by_year = intent.dimension == "year"
    expression = "substr(quarter, 1, 4)" if by_year else "quarter"
    step = "year" if by_year else "quarter"
    measure = intent.measure or "revenue"
    report = Report(
        f"Sales by {step}", f"Sum up {measure} for every {step}, then look for the high and the low."
    )
    periods = [q for q in data.quarters if not intent.periods or any(q.startswith(p) for p in intent.periods)]
    if not by_year and not intent.order and not intent.periods:
        periods = periods[-8:]
    result = report.run(
        data,
        "trend",
        f"SELECT {expression} AS {step}, SUM(units) AS units, ROUND(SUM(revenue), 2) AS revenue\nFROM sales\n"
        f"WHERE quarter BETWEEN '{periods[0]}' AND '{periods[-1]}'{_filters(intent)}\nGROUP BY 1 ORDER BY 1",
    )
    column = 2 if measure == "revenue" else 1
    values = [_number(row[column]) for row in result.rows]
    lines = [
        [str(row[0]), f"{_number(row[1]):,.0f}", f"${_number(row[2]):,.0f}", _change(value, before)]
        for row, value, before in zip(result.rows, values, [None, *values[:-1]], strict=True)
    ]
    ends = [("Highest", values.index(max(values))), ("Lowest", values.index(min(values)))]
    if intent.order == "worst":
        ends.reverse()
    (word, first), (other_word, second) = ends
    text = (
        f"**{word} {measure}{_scope(intent)}: "
        f"{result.rows[first][0]} with {_shown(values[first], measure)}**; "
        f"{other_word.lower()}: {result.rows[second][0]} with {_shown(values[second], measure)}. "
        f"From {result.rows[0][0]} to {result.rows[-1][0]}: {_change(values[-1], values[0])}."
    )
    if by_year and not data.quarters[-1].endswith("Q4"):
        text += f" The data ends with {data.quarters[-1]}, so that the last year is not whole."
    report.text = f"{text}\n\n{markdown_table([step.capitalize(), 'Units', 'Revenue', 'Change'], lines)}"
    return report


def _dimension(intent: Intent) -> str:
    if intent.dimension in ("product", "region", "category"):
        return intent.dimension
    return "region" if len(intent.products) == 1 else "product"


def _by(dimension: str, intent: Intent, quarters: list[str], measure: str) -> str:
    listed = ", ".join(f"'{quarter}'" for quarter in quarters)
    when = f"quarter = {listed}" if len(quarters) == 1 else f"quarter IN ({listed})"
    return (
        f"SELECT {dimension}, SUM(units) AS units, ROUND(SUM(revenue), 2) AS revenue\nFROM sales\n"
        f"WHERE {when}{_filters(intent)}\nGROUP BY {dimension} ORDER BY {measure} DESC"
    )


def _filters(intent: Intent) -> str:
    """SQL conditions. The names come from the data set, never from the text of the question."""
    named = {"product": intent.products, "region": intent.regions, "category": intent.categories}
    return "".join(
        f" AND {column} IN ({', '.join(repr(name) for name in names)})"
        for column, names in named.items()
        if names
    )


def _scope(intent: Intent) -> str:
    of = " and ".join((*intent.products, *intent.categories))
    where = " and ".join(intent.regions)
    return (f" of {of}" if of else "") + (f" in {where}" if where else "")


def _number(cell: object) -> float:
    return float(cell) if isinstance(cell, int | float) else 0.0


def _shown(value: float, measure: str) -> str:
    return f"${value:,.0f}" if measure == "revenue" else f"{value:,.0f} units"


def _change(value: float, before: float | None) -> str:
    return f"{value / before - 1:+.1%}" if before else "–"
