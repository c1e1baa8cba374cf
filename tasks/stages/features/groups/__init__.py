"""The groups of features, one module for each group or for a few related ones.

A feature uses only what was known strictly before the review's own time. Dates are not features, since trees
cannot extrapolate a value that only grows; months and weekdays repeat.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from tasks.stages.features.group import Group

# The order of the columns, which decides between equally good splits of a tree; other groups follow by name.
FIRST = ("user", "item", "helpful", "catalogue", "shape", "context", "stars", "text", "language", "embeddings", "deep")


@cache
def declared_groups() -> dict[str, Group]:
    """Return every group that a module of this package declares, by name, in the order of the columns."""
    groups: dict[str, Group] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Group) and groups.setdefault(value.name, value) is not value:
                raise TypeError(f"{module.name}: another group of features is called {value.name!r}")
    order = [name for name in (*FIRST, *sorted(groups.keys() - {*FIRST})) if name in groups]
    return {name: groups[name] for name in order}
