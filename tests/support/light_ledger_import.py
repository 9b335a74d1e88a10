"""The ledger without the rest of the package, if this is imported before anything else.

The package's own ``__init__`` loads LangGraph, which takes seconds in each of many processes.
"""

from __future__ import annotations

import importlib.util
import sys
import types

_spec = importlib.util.find_spec("databricks_supervisor")
assert _spec is not None
assert _spec.submodule_search_locations is not None
_package = types.ModuleType("databricks_supervisor")
_package.__path__ = list(_spec.submodule_search_locations)
sys.modules["databricks_supervisor"] = _package
