"""Dotted paths such as `author.name` or `scores[0]`: the columns of nested records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from tasks.sources.item_records import steps_of


@lru_cache(maxsize=1024)
def path_of(name: str) -> tuple[str | int, ...] | None:
    """Split a column's name into the steps of a path; None if it is a plain name."""
    if "." not in name and "[" not in name:
        return None
    try:
        return steps_of(name)
    except ValueError:
        return None


def value_at(record: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column, or None. A key that is the whole name comes before the path."""
    if name in record:
        return record[name]
    value: Any = record
    for step in path_of(name) or (name,):
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, (list, tuple)) and step < len(value) else None
    return value


def columns_of(records: Iterable[Mapping[str, Any]], wanted: Iterable[str]) -> list[str]:
    """List the keys of these records, and which of the wanted paths lead to a value."""
    listed = list(records)
    names = {key for record in listed for key in record}
    nested = {n for n in wanted if n not in names and any(value_at(record, n) is not None for record in listed)}
    return sorted(names | nested)
