"""Digest the code that decides a stage's output: its syntax trees, followed through imports."""

from __future__ import annotations

import ast
import pkgutil
import threading
from functools import lru_cache
from hashlib import sha256
from importlib import util
from pathlib import Path

from tasks.core.digests import digest_of

# ast.parse sometimes fails in two threads at once (CPython issue 106905, fixed in 3.11.9 and 3.12.3).
_PARSING = threading.Lock()


def source_digest(module: str) -> str:
    """Return the digest of a module and of every `tasks` module that it imports, directly or not."""
    return digest_of(source_modules(module))


@lru_cache(maxsize=64)
def source_modules(module: str) -> dict[str, str]:
    """Return {module: digest of its syntax tree} for a module and the `tasks` modules it imports, directly or not.

    Comments, docstrings and layout do not count. Neither does `tasks.core`, infrastructure versioned by
    `snapshots.FORMAT`. What decides outputs (labels, schemas, the search space) is in `tasks.domain`, which counts.
    A package that finds its modules when it runs (`pkgutil.iter_modules`) depends on all of them.
    """
    seen: dict[str, str] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        spec = util.find_spec(name)
        if spec is None or spec.origin is None:
            continue  # `from tasks.x import function`: the function is part of tasks.x
        with _PARSING:
            tree = ast.parse(Path(spec.origin).read_bytes())
        seen[name] = sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest()
        todo.extend(n for n in _imported(tree) if n.startswith("tasks.") and not n.startswith("tasks.core"))
        if spec.submodule_search_locations and _finds_its_modules(tree):
            todo.extend(m.name for m in pkgutil.iter_modules(spec.submodule_search_locations, f"{name}."))
    return seen


def _imported(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names.extend(f"{node.module}.{a.name}" for a in node.names if _is_module(node.module, a.name))
    return names


def _finds_its_modules(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr == "iter_modules" for node in ast.walk(tree))


def _is_module(package: str, name: str) -> bool:
    if not package.startswith("tasks"):
        return False
    parent = util.find_spec(package)
    if parent is None or not parent.submodule_search_locations:
        return False
    return any((Path(folder) / f"{name}.py").exists() for folder in parent.submodule_search_locations)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return tree
