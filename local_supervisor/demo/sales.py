"""The data set of the demonstration: a CSV file, loaded into an in-memory SQLite database."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

CSV_FILE = Path(__file__).with_name("sales.csv")
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """The result of a query."""

    columns: list[str]
    rows: list[tuple[Cell, ...]]

    def markdown(self) -> str:
        """As a Markdown table, with unformatted numbers."""
        return markdown_table(
            self.columns, [["" if cell is None else str(cell) for cell in row] for row in self.rows]
        )


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is aligned to the right."""
    rule = [":--"] + ["--:"] * (len(columns) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [columns, rule, *rows])


class Sales:
    """The loaded data set: quarter, region, category, product, units, revenue (US dollars)."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:")
        self._db.execute(
            "CREATE TABLE sales "
            "(quarter TEXT, region TEXT, category TEXT, product TEXT, units INTEGER, revenue REAL)"
        )
        with CSV_FILE.open(newline="") as file:
            rows = [tuple(row.values()) for row in csv.DictReader(file)]
        self._db.executemany("INSERT INTO sales VALUES (?,?,?,?,?,?)", rows)
        self._db.execute("PRAGMA query_only=ON")
        self.quarters = self._values("quarter")
        self.regions = self._values("region")
        self.categories = self._values("category")
        self.products = self._values("product")

    def query(self, sql: str) -> Table:
        """Run a SELECT."""
        cursor = self._db.execute(sql)
        return Table([column[0] for column in cursor.description], cursor.fetchall())

    def _values(self, column: str) -> list[str]:
        rows = self._db.execute(f"SELECT DISTINCT {column} FROM sales ORDER BY {column}")
        return [row[0] for row in rows]


@lru_cache(maxsize=1)
def sales() -> Sales:
    """The data set, loaded at first use."""
    return Sales()
