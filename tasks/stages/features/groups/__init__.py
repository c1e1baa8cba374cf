"""The groups of features, a module each or one for a few that belong together.

A feature says what was known strictly before the review's own moment. Days themselves are left out, since trees cannot
go on with what only grows: a month and a weekday come again.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from tasks.stages.features.group import Group

# The order of the columns, by which a model decides between equally good splits; other groups follow by name.
FIRST = ("user", "item", "helpful", "catalogue", "shape", "context", "stars", "text", "language", "embeddings")


@cache
def declared_groups() -> dict[str, Group]:
    """Return every group that a module here declares, by name, in the order of the columns."""
    found: dict[str, Group] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Group) and found.setdefault(value.name, value) is not value:
                raise TypeError(f"{module.name}: another group of features is called {value.name!r}")
    order = [name for name in (*FIRST, *sorted(found.keys() - {*FIRST})) if name in found]
    return {name: found[name] for name in order}
