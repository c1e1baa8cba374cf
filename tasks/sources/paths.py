"""Dotted paths such as `author.name` or `scores[0]`: the columns of nested records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.sources.item_records import steps_of

MOST_PATHS = 200
_PLAIN = re.compile(r"[^.\[\]]+")  # a key that a path can name


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


def flattened(record: Mapping[str, Any], known: dict[str, None]) -> dict[str, Any]:
    """Return a record with the values of its objects, up to four keys deep, under their paths as well.

    `known` collects the paths; beyond MOST_PATHS no new one is taken, as where keys are ids."""
    flat = dict(record)
    stack = [(key, value, 1) for key, value in record.items() if isinstance(value, dict)]
    while stack:
        above, inside, depth = stack.pop(0)
        for key, value in inside.items():
            path = f"{above}.{key}"
            if path in record or not _PLAIN.fullmatch(str(key)) or path_of(path) is None:
                continue
            if isinstance(value, dict) and depth < 4:
                stack.append((path, value, depth + 1))
            elif path in known or len(known) < MOST_PATHS:
                known[path] = None
                flat[path] = value
    return flat


def type_at(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column, or of what a path leads to; None if there is none."""
    if name in schema.names:
        return schema.field(name).type
    steps = path_of(name)
    if steps is None or schema.names.count(str(steps[0])) != 1:
        return None
    kind = schema.field(str(steps[0])).type
    for step in steps[1:]:
        if isinstance(step, str) and pa.types.is_struct(kind) and kind.get_field_index(step) >= 0:
            kind = kind.field(step).type
        elif isinstance(step, int) and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            kind = kind.value_type
        else:
            return None
    return kind


def columns_to_read(schema: pa.Schema, wanted: Iterable[str]) -> list[str]:
    """List the columns of a parquet file that hold the wanted ones."""
    there = [name for name in wanted if type_at(schema, name) is not None]
    return list(dict.fromkeys(name if name in schema.names else str((path_of(name) or (name,))[0]) for name in there))


def opened(frame: pl.DataFrame, schema: pa.Schema, wanted: Iterable[str]) -> pl.DataFrame:
    """Return a frame of `columns_to_read` as one of the wanted columns."""
    columns = []
    for name in wanted:
        if name in frame.columns:
            columns.append(pl.col(name))
        elif type_at(schema, name) is not None:
            root, *steps = path_of(name) or (name,)
            value = pl.col(str(root))
            if frame.schema[str(root)] == pl.String:  # a type that no frame holds is JSON text
                inside = "$" + "".join(f"[{json.dumps(step)}]" for step in steps)
                columns.append(value.str.json_path_match(inside).alias(name))
                continue
            for step in steps:
                value = value.struct.field(step) if isinstance(step, str) else value.list.get(step, null_on_oob=True)
            columns.append(value.alias(name))
    return frame.select(columns)


def unnested(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with the fields of its structs, up to four deep, under their paths as well."""
    added: list[pl.Expr] = []
    stack: list[tuple[str, pl.Expr, Any, int]] = [(n, pl.col(n), kind, 1) for n, kind in frame.schema.items()]
    while stack and len(added) < MOST_PATHS:
        name, value, kind, depth = stack.pop(0)
        if depth > 1 and name not in frame.columns:
            added.append(value.alias(name))
        if isinstance(kind, pl.Struct) and depth < 5:
            fields = [f for f in kind.fields if _PLAIN.fullmatch(f.name)]
            stack += [(f"{name}.{f.name}", value.struct.field(f.name), f.dtype, depth + 1) for f in fields]
    return frame.with_columns(added)
