"""The results of a run, as a table, as JSON and as a chart."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .measure import Row

RESULTS = Path(__file__).parent / "results"


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(title="Against the published loop, in one run on one machine")
    for column in ("benchmark", "what", "ours", "published", "ratio", "target", "pass"):
        table.add_column(column, justify="right" if column in ("ours", "published", "ratio") else "left")
    for row in rows:
        table.add_row(
            row.benchmark,
            row.what,
            f"{row.ours:.3g} {row.unit}" if row.ours < 1000 else f"{row.ours:,.0f} {row.unit}",
            "" if row.published is None else f"{row.published:.4g}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.target,
            "[green]yes" if row.passed else "[red]no",
        )
    Console(width=160 if not os.isatty(1) else None).print(table)


def write(rows: Sequence[Row], name: str) -> None:
    """Write ``results/NAME.json``, and ``results/NAME.png`` where matplotlib is installed."""
    RESULTS.mkdir(exist_ok=True)
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    compared = [row for row in rows if row.ratio]
    if compared:
        _chart(compared, RESULTS / f"{name}.png")


def _chart(rows: Sequence[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(rows) + 1.4))
    places = range(len(rows))
    ratios = [row.ratio or 0.0 for row in rows]
    axes.barh(places, [1.0] * len(rows), color="#d9d9d9", label="published loop")
    axes.barh(places, ratios, color="#ff3621", height=0.5, label="this project")
    for place, row, ratio in zip(places, rows, ratios, strict=True):
        label = f"{row.ours:.3g} of {row.published:.4g} {row.unit}"
        axes.text(max(1.0, ratio) + 0.02, place, label, va="center", fontsize=8)
    axes.set_yticks(places, [row.what for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.0, *ratios) + 0.5)
    axes.set_xlabel("share of the published loop's figure (less is better)")
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
