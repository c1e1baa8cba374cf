"""The stages, a module each, or a package whose module `stage` declares it."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from tasks.core.stage import Stage


@cache
def declared_stages() -> dict[str, Stage]:
    """Return every stage that a module here declares with `@stage`, by name, sorted."""
    declared: dict[str, Stage] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        declaring = importlib.import_module(f"{module.name}.stage" if module.ispkg else module.name)
        for value in vars(declaring).values():
            if isinstance(value, Stage) and value.function.__module__ == declaring.__name__:
                declared[value.name] = value
    return dict(sorted(declared.items()))
