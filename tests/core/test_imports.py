"""The product's modules have no circular imports, not even inside functions."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

from tasks.core.sections import PROJECT

PACKAGES = ("tasks", "flows", "benchmarks")


def imported() -> dict[str, set[str]]:
    """Return {module: the modules of the product that it imports, at any depth of its code}."""
    files = [file for package in PACKAGES for file in (PROJECT / package).rglob("*.py")]
    names = {
        ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): file for file in files
    }
    found: dict[str, set[str]] = {}
    for name, file in names.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                below = [f"{node.module}.{alias.name}" for alias in node.names]
                wanted = [module if module in names else node.module for module in below]
            else:
                continue
            found[name] |= {module for module in wanted if module in names and module != name}
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = imported()
    assert len(modules) > 100
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from None
