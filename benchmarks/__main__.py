"""Run the benchmarks: ``uv run python -m benchmarks``, or some of them by name."""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from .measure import Row
from .report import show, write

BENCHMARKS = ("polls", "cadence", "jobs", "ten_thousand", "checkpoints", "server")


def main() -> int:
    """Run the benchmarks and print the results; 1 if a target was missed."""
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    names: list[str] = options.parse_args().names
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        options.error(f"no benchmark is named {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
    rows: list[Row] = []
    for name in names or BENCHMARKS:
        began = time.monotonic()
        rows += importlib.import_module(f"benchmarks.{name}").rows()
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")
        write(rows, "-".join(names) or "all")
    show(rows)
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
