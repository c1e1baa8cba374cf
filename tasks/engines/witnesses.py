"""Select an expectation's witnesses: rows such that, if the expectation holds for them, it holds for every row.

Great Expectations takes a pandas frame. A million rows cost a second per column to convert, and another to validate.
But a range depends only on the least and the greatest value, and a set on one row per distinct value. So Arrow selects
these rows, and Great Expectations validates them. If one of them fails, it validates the whole column, so that counts
and examples are those of all rows.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.engines.suites import Expectation

BETWEEN = "expect_column_values_to_be_between"
LENGTHS = "expect_column_value_lengths_to_be_between"
NOT_NULL = "expect_column_values_to_not_be_null"
IN_SET = "expect_column_values_to_be_in_set"
UNIQUE = "expect_column_values_to_be_unique"
NOT_MATCH = "expect_column_values_to_not_match_regex"
GREATER = "expect_column_pair_values_a_to_be_greater_than_b"
MOST_DIFFERENT = 1_000  # distinct values, each of which needs a row
EXACT = 1 << 62  # differences of smaller integers do not overflow
# The arguments supported here; with any other, all rows are validated.
ARGUMENTS = {
    BETWEEN: {"column", "min_value", "max_value", "strict_min", "strict_max", "mostly"},
    LENGTHS: {"column", "min_value", "max_value", "strict_min", "strict_max", "mostly"},
    NOT_NULL: {"column", "mostly"},
    IN_SET: {"column", "value_set", "mostly"},
    UNIQUE: {"column", "mostly"},
    NOT_MATCH: {"column", "regex", "mostly"},
    GREATER: {"column_A", "column_B", "or_equal", "mostly"},
}
# What Python's regular expressions and RE2 take for the same. RE2 is Arrow's, and many times as fast.
SHARED_SYNTAX = re.compile(
    r"""
      (?P<set>\[\^?(?:[^\\\[\]^]|\\s)+\])
    | (?P<space>\\s)          # written out for RE2, which knows ASCII's alone
    | \\[^\w\s]             # an escaped sign
    | \((?:\?:)?(?!\?) | \)  # groups, without flags or looking around
    | [|?*+]
    | [^\\.^$\[\](){}?*+|]  # a plain character
    """,
    re.VERBOSE | re.ASCII,
)
SPACE = "\\t-\\r\\x1c-\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"


def may_have(expectation: Expectation) -> bool:
    """Return whether the expectation is of a kind that has witnesses, if the values allow it."""
    return set(expectation.kwargs) <= ARGUMENTS.get(expectation.type, set())


def witnesses(expectation: Expectation, table: pa.Table) -> tuple[list[int], int | None] | None:
    """Return the row numbers of the witnesses and the number of missing values (None where Great Expectations does not
    count them). Returns None if all rows must be validated."""
    if not table.num_rows or not may_have(expectation):
        return None
    columns = [_without_nan(table[name]) for name in expectation.columns]
    missing = columns[0].null_count
    if expectation.type == NOT_NULL:
        return [int(pc.index(pc.is_null(columns[0]), True).as_py()) if missing else 0], None
    if expectation.type == GREATER:
        return _closest(*columns) if not any(c.null_count for c in columns) else None
    if missing == table.num_rows:
        return None
    if expectation.type == BETWEEN:
        rows = _extremes(columns[0])
    elif expectation.type == LENGTHS:
        is_text = pa.types.is_string(columns[0].type) or pa.types.is_large_string(columns[0].type)
        rows = _extremes(pc.utf8_length(columns[0])) if is_text else None
    elif expectation.type == IN_SET:
        rows = _one_of_each(columns[0])
    elif expectation.type == NOT_MATCH:
        rows = _any_if_none_matches(columns[0], expectation.kwargs["regex"])
    else:
        rows = _twins(columns[0])
    return None if rows is None else (rows, missing)


def total(column: Any) -> float | None:
    """Return the sum of the numbers in a column, without nulls and NaN; None if it holds no numbers."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    return float(pc.sum(_without_nan(column).cast(pa.float64(), safe=False)).as_py() or 0.0)


def _without_nan(column: Any) -> Any:
    """Return the column with NaN replaced by null, as pandas treats NaN as missing."""
    return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column


def _extremes(column: Any) -> list[int] | None:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind)):
        return None
    ends = pc.min_max(column)
    return [pc.index(column, ends[name]).as_py() for name in ("min", "max")]


def _one_of_each(column: Any) -> list[int] | None:
    encoded = column.dictionary_encode().combine_chunks()
    if len(encoded.dictionary) > MOST_DIFFERENT:
        return None
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    values, first = np.unique(codes, return_index=True)
    return [int(row) for value, row in zip(values, first, strict=True) if value >= 0]


def _twins(column: Any) -> list[int] | None:
    """Return the first row with a value if all values differ; None if two are equal, so that both become examples."""
    known = column.drop_null()
    if pc.count_distinct(known).as_py() < len(known):
        return None
    return [pc.index(pc.is_valid(column), True).as_py()]


def _any_if_none_matches(column: Any, regex: str) -> list[int] | None:
    """Return the first row with a text if none matches; None if one does, or if RE2 may find less than Python."""
    pattern = for_re2(regex)
    if pattern is None or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    try:
        found = pc.any(pc.match_substring_regex(column, pattern)).as_py()
    except pa.ArrowInvalid:  # such as Python's possessive "a++"
        return None
    return None if found else [pc.index(pc.is_valid(column), True).as_py()]


def for_re2(regex: str) -> str | None:
    """Write a regular expression of Python's for RE2, so that both find something in the same texts; None if it has
    anything else than SHARED_SYNTAX."""
    parts = list(SHARED_SYNTAX.finditer(regex))
    if "".join(part.group() for part in parts) != regex:
        return None
    spaces = {"set": SPACE, "space": f"[{SPACE}]"}
    return "".join(p.group().replace(r"\s", spaces[p.lastgroup]) if p.lastgroup else p.group() for p in parts)


def _closest(a: Any, b: Any) -> tuple[list[int], int] | None:
    """Return the row of the least a - b, for integers whose difference cannot overflow; None for others."""
    if not (pa.types.is_integer(a.type) and pa.types.is_integer(b.type)):
        return None
    first, second = (np.asarray(c.to_numpy(zero_copy_only=False)) for c in (a, b))
    if any(np.abs(ends).max() >= EXACT for ends in ([first.min(), first.max()], [second.min(), second.max()])):
        return None
    return [int(np.argmin(first.astype(np.int64) - second.astype(np.int64)))], 0
