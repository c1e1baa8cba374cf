"""Select an expectation's witnesses: rows such that what the expectation finds in them, it finds in all rows.

Great Expectations takes a pandas frame. A million rows cost a second per column to convert, and another to validate.
But a range depends only on the least and the greatest value, and a set on one row per distinct value. So Arrow selects
these rows, and Great Expectations validates them. Rows that break a range or match a regular expression are selected,
too, if they are few. If Great Expectations does not find exactly these to fail, it validates the whole column, so that
counts and examples are those of all rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Witnesses:
    """rows: numbers of the witnesses; missing: how many values are missing, None where Great Expectations does not
    count them; failing: how many of `rows` fail, which are all that fail."""

    rows: list[int]
    missing: int | None
    failing: int = 0


def witnesses(expectation: Expectation, table: pa.Table, most_failing: int = 0) -> Witnesses | None:
    """Return the witnesses, None if all rows must be validated, as when more than `most_failing` fail."""
    if not table.num_rows or not may_have(expectation):
        return None
    columns = [_without_nan(table[name]) for name in expectation.columns]
    missing = columns[0].null_count
    if expectation.type == NOT_NULL:
        return Witnesses([int(pc.index(pc.is_null(columns[0]), True).as_py()) if missing else 0], None)
    if expectation.type == GREATER:
        rows = _closest(*columns) if not any(c.null_count for c in columns) else None
        return None if rows is None else Witnesses(rows, 0)
    if missing == table.num_rows:
        return None
    if expectation.type in (BETWEEN, LENGTHS, NOT_MATCH):
        return _of_values(expectation, columns[0], missing, most_failing)
    rows = _one_of_each(columns[0]) if expectation.type == IN_SET else _twins(columns[0])
    return None if rows is None else Witnesses(rows, missing)


def _of_values(expectation: Expectation, column: Any, missing: int, most_failing: int) -> Witnesses | None:
    """Of an expectation that looks at each value alone: the rows that fail, and one or two that stand for the rest."""
    if expectation.type != BETWEEN and not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    if expectation.type == NOT_MATCH:
        values, fails = column, _matches(column, expectation.kwargs["regex"])
    else:
        values = pc.utf8_length(column) if expectation.type == LENGTHS else column
        fails = _outside(values, expectation.kwargs)
    if fails is None:
        return None
    failing = np.flatnonzero(fails.fill_null(False).to_numpy(zero_copy_only=False))
    if len(failing) > most_failing:
        return None
    others = pc.if_else(fails, None, values) if len(failing) else values
    if others.null_count == len(others):
        return None
    some = [pc.index(pc.is_valid(others), True).as_py()] if expectation.type == NOT_MATCH else _extremes(others)
    return Witnesses(sorted({*failing.tolist(), *some}), missing, len(failing))


def _matches(column: Any, regex: str) -> Any:
    """Whether each text matches; None if RE2 may find less than Python."""
    pattern = for_re2(regex)
    try:
        return None if pattern is None else pc.match_substring_regex(column, pattern)
    except pa.ArrowInvalid:  # such as Python's possessive "a++"
        return None


def _outside(values: Any, kwargs: dict[str, Any]) -> Any:
    """Whether each value is outside of a range. Only numbers have one here; of times none counts as outside, so that
    Great Expectations finds those that are. None for other values."""
    kind = values.type
    if pa.types.is_timestamp(kind):
        return pa.chunked_array([pa.repeat(False, len(values))])
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    outside = pa.chunked_array([pa.repeat(False, len(values))])
    for end, strict, beyond, at in (
        ("min_value", "strict_min", pc.less, pc.less_equal),
        ("max_value", "strict_max", pc.greater, pc.greater_equal),
    ):
        limit = kwargs.get(end)
        if isinstance(limit, int | float):
            outside = pc.or_kleene(outside, (at if kwargs.get(strict) else beyond)(values, limit))
    return outside


def total(column: Any) -> float | None:
    """Return the sum of the numbers in a column, without nulls and NaN; None if it holds no numbers."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    return float(pc.sum(_without_nan(column).cast(pa.float64(), safe=False)).as_py() or 0.0)


def _without_nan(column: Any) -> Any:
    """Return the column with NaN replaced by null, as pandas treats NaN as missing."""
    return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column


def _extremes(column: Any) -> list[int]:
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


def for_re2(regex: str) -> str | None:
    """Write a regular expression of Python's for RE2, so that both find something in the same texts; None if it has
    anything else than SHARED_SYNTAX."""
    parts = list(SHARED_SYNTAX.finditer(regex))
    if "".join(part.group() for part in parts) != regex:
        return None
    spaces = {"set": SPACE, "space": f"[{SPACE}]"}
    return "".join(p.group().replace(r"\s", spaces[p.lastgroup]) if p.lastgroup else p.group() for p in parts)


def _closest(a: Any, b: Any) -> list[int] | None:
    """Return the row of the least a - b, for integers whose difference cannot overflow; None for others."""
    if not (pa.types.is_integer(a.type) and pa.types.is_integer(b.type)):
        return None
    first, second = (np.asarray(c.to_numpy(zero_copy_only=False)) for c in (a, b))
    if any(np.abs(ends).max() >= EXACT for ends in ([first.min(), first.max()], [second.min(), second.max()])):
        return None
    return [int(np.argmin(first.astype(np.int64) - second.astype(np.int64)))]
