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
        if name not in seen and (found := _module(name)):
            seen[name], more = found
            todo.extend(more)
    return seen


@lru_cache(maxsize=512)
def _module(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the digest of a module's syntax tree and the `tasks` modules that it depends on itself.

    None for what is no module: of `from tasks.x import function` the function is part of tasks.x.
    """
    spec = util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    with _PARSING:
        tree = ast.parse(Path(spec.origin).read_bytes())
    imported, finds_its_modules = _taken_apart(tree)
    needed = [n for n in imported if n.startswith("tasks.") and not n.startswith("tasks.core")]
    if spec.submodule_search_locations and finds_its_modules:
        needed.extend(m.name for m in pkgutil.iter_modules(spec.submodule_search_locations, f"{name}."))
    return sha256(ast.dump(tree).encode()).hexdigest(), tuple(needed)


def _taken_apart(tree: ast.Module) -> tuple[list[str], bool]:
    """Take the docstrings out of a tree; return what it imports, and whether it calls `iter_modules`.

    One walk for all three: a run's code has 200,000 nodes.
    """
    names: list[str] = []
    finds_its_modules = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            finds_its_modules |= node.attr == "iter_modules"
        elif isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names.extend(f"{node.module}.{a.name}" for a in node.names if _is_module(node.module, a.name))
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _documented(node):
            node.body = node.body[1:] or [ast.Pass()]
    return names, finds_its_modules


def _documented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _is_module(package: str, name: str) -> bool:
    if not package.startswith("tasks"):
        return False
    parent = util.find_spec(package)
    if parent is None or not parent.submodule_search_locations:
        return False
    files = (f"{name}.py", f"{name}/__init__.py")
    return any((Path(folder) / file).exists() for folder in parent.submodule_search_locations for file in files)
