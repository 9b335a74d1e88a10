"""Parses a question about the sales data with regular expressions: dimension, measure, periods, names."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Literal

from .sales import sales

Dimension = Literal["product", "region", "category", "quarter", "year"]

_DIMENSIONS: list[tuple[Dimension, str]] = [
    (
        "quarter",
        r"trends?|over time|quarterly|(by|per|each|every|over the|which|best|worst) quarters?|develop\w*",
    ),
    ("year", r"(by|per|each|every|over the|which|best|worst) years?|yearly|annual"),
    ("region", r"regions?|where|countr(y|ies)|markets?"),
    ("category", r"categor(y|ies)"),
    ("product", r"products?|items?|articles?"),
]
_REGION_WORDS = {
    "North America": r"north america|n\.?a\.? region|united states|\busa?\b",
    "Europe": r"europe|emea",
    "Asia Pacific": r"asia|apac|pacific",
    "Latin America": r"latin america|latam|south america",
}
_SALES_WORDS = (
    r"sales?|sold|sell(ing|s|er)?|revenue|turnover|units?|income|earn(ed|ings)?|figures|business|we do"
)
_UNIT_WORDS = r"units?|pieces|volume|how many"
_BEST = r"best|top|most|highest|strongest|leading|largest|biggest|winner"
_WORST = r"worst|least|lowest|weakest|bottom|smallest|poorest|loser"
_GROWTH = r"gr[eo]w(n|th|ing)?|fastest|declin\w*|shr[aiu]nk\w*|fell|fall(en|ing)?|(in|de)crease[ds]?"
_FOLLOW_UP = re.compile(r"^\s*(and|or|what about|how about|same|now|also|then|but|compared)\b", re.I)


@dataclass(frozen=True)
class Intent:
    """The parts of a question; None and () mean "not given"."""

    dimension: Dimension | None = None
    measure: Literal["revenue", "units"] | None = None
    order: Literal["best", "worst"] | None = None
    growth: bool | None = None
    periods: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    about_sales: bool | None = None

    @property
    def understood(self) -> bool:
        """Whether it refers to the data set: "best" or a date alone does not."""
        named = self.dimension or self.products or self.regions or self.categories
        return bool(named or self.about_sales or self.measure)


def understand(question: str, earlier: list[str] | None = None) -> Intent:
    """Parse a question.

    Args:
        question: The question.
        earlier: Earlier questions, oldest first. A short question ("and by region?") takes its missing parts from
            them.
    """
    before = Intent()
    for previous in earlier or []:
        intent = _continued(_read(previous), before, previous)
        before = intent if intent.understood else before
    return _continued(_read(question), before, question)


def quarters_of(period: str) -> list[str]:
    """The quarters of a period in the data set."""
    return [quarter for quarter in sales().quarters if quarter.startswith(period)]


def quarters_before(period: str) -> list[str]:
    """The quarters to compare a period with: the previous quarter, or the same quarters of the previous year."""
    if "-Q" in period:
        return [_previous(period)]
    return [f"{int(quarter[:4]) - 1}{quarter[4:]}" for quarter in quarters_of(period)]


def _previous(quarter: str) -> str:
    year, number = int(quarter[:4]), int(quarter[-1])
    return f"{year}-Q{number - 1}" if number > 1 else f"{year - 1}-Q4"


def name_of(quarters: list[str]) -> str:
    """Quarters as text: "2026-Q3", "2025", "2025-Q1 to Q3"."""
    if len(quarters) == 1:
        return quarters[0]
    return quarters[0][:4] if len(quarters) == 4 else f"{quarters[0]} to {quarters[-1][5:]}"


def _continued(new: Intent, before: Intent, question: str) -> Intent:
    short = len(question.split()) <= 3 and not new.about_sales
    if not (_FOLLOW_UP.match(question) or short) or not before.understood or new == Intent():
        return new
    taken = {
        field.name: getattr(before, field.name)
        for field in fields(Intent)
        if getattr(new, field.name) in (None, ())
    }
    if new.dimension in ("quarter", "year"):
        taken.pop("periods", None)  # a trend covers all periods
    if new.periods and before.dimension in ("quarter", "year"):
        taken.pop("dimension", None)
    return replace(new, **taken)


def _read(question: str) -> Intent:
    text = question.lower()
    data = sales()
    products = tuple(name for name in data.products if _mentions(text, name))
    regions = tuple(
        name for name in data.regions if re.search(_REGION_WORDS.get(name, re.escape(name.lower())), text)
    )
    categories = tuple(name for name in data.categories if re.search(rf"\b{name.lower()}\b", text))
    dimension = next((name for name, words in _DIMENSIONS if _has(text, words)), None)
    if dimension is None and len(products) > 1:
        dimension = "product"
    if dimension is None and len(regions) > 1:
        dimension = "region"
    return Intent(
        dimension=dimension,
        measure="units"
        if _has(text, _UNIT_WORDS)
        else "revenue"
        if _has(text, "revenue|turnover|money")
        else None,
        order="worst" if _has(text, _WORST) else "best" if _has(text, _BEST) else None,
        growth=True if _has(text, _GROWTH) else None,
        periods=_periods(text, data.quarters),
        products=products,
        regions=regions,
        categories=categories,
        about_sales=True if _has(text, _SALES_WORDS) else None,
    )


def _has(text: str, words: str) -> bool:
    return re.search(rf"\b({words})\b", text) is not None


def _mentions(text: str, product: str) -> bool:
    first, last = product.lower().split()
    return re.search(rf"\b({first}|{last}s?)\b", text) is not None


def _periods(text: str, quarters: list[str]) -> tuple[str, ...]:
    latest = quarters[-1]
    year = int(latest[:4])
    found: list[tuple[int, str]] = []
    for match in re.finditer(r"\b(20\d\d)[ -]?q([1-4])\b", text):
        found.append((match.start(), f"{match[1]}-Q{match[2]}"))
    for match in re.finditer(r"\bq([1-4])\b(?:\s*(?:of|in|/|,)?\s*(20\d\d)\b)?", text):
        if any(abs(match.start() - at) <= 5 and period.endswith(f"Q{match[1]}") for at, period in found):
            continue
        known = [quarter for quarter in quarters if quarter.endswith(f"Q{match[1]}")]
        found.append((match.start(), f"{match[2]}-Q{match[1]}" if match[2] else known[-1]))
    relative = {
        r"\b(last|latest|past|this|current|recent) quarter\b": latest,
        r"\b(previous quarter|quarter before|prior quarter)\b": _previous(latest),
        r"\b(last|previous|past) year\b": str(year - 1),
        r"\bthis year|year to date\b": str(year),
    }
    for words, period in relative.items():
        if match_ := re.search(words, text):
            found.append((match_.start(), period))
    for match in re.finditer(r"\b(20\d\d)\b", text):
        if not re.match(r"[ -]?q[1-4]", text[match.end() :]) and not re.search(
            r"q[1-4]\s*(of|in|/|,)?\s*$", text[: match.start()]
        ):
            found.append((match.start(), match[1]))
    return tuple(dict.fromkeys(period for _, period in sorted(found)))
