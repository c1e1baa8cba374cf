"""The results of a validation, summed over all pieces of each table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from tasks.engines.suites import FAIL, Expectation

NOT_NULL = "expect_column_values_to_not_be_null"
# Parts of the names of numbers: "rows", "train: rows", "share of nulls of text", "mean of rating".
ROWS, NULLS, MEAN = "rows", "share of nulls of ", "mean of "

LONGEST = 80  # characters of a warning's value, and of its limit


class Warned(TypedDict):
    """A warning: something unexpected that fails no stage, each part as text. It shows no value of a row."""

    expectation: str
    value: str
    limit: str


@dataclass(frozen=True)
class Validation:
    """The results, one JSON-able dictionary per expectation, and the number of rows of each table.

    Keys: table, type, kwargs, severity, success, element_count, missing_count, unexpected_count, unexpected_percent (of
    the values that are not missing), mean (None where it was not computed), examples (value, file, row counted from 0),
    observed_value, error.
    """

    stage: str
    results: list[dict[str, Any]]
    rows: dict[str, int]

    @property
    def success(self) -> bool:
        """Whether nothing failed but, at most, expectations that only warn."""
        return not self.failures()

    def failures(self) -> list[dict[str, Any]]:
        return [result for result in self.results if not result["success"] and is_fatal(result)]

    def warnings(self) -> list[Warned]:
        return [_warned(result) for result in self.results if not result["success"] and not is_fatal(result)]

    def summary(self) -> dict[str, Any]:
        return {
            "expectations": len(self.results),
            "failed": len(self.failures()),
            "rows": sum(self.rows.values()),
            "unexpected": sum(result["unexpected_count"] or 0 for result in self.results),
            "warnings": self.warnings(),
            "numbers": self.numbers(),
        }

    def numbers(self) -> dict[str, float]:
        """Return what can be compared with other nights: rows, columns' shares of nulls and means, by name.

        A column that must not be null has no share of nulls to watch.
        """
        found: dict[str, float] = {_in(table, ROWS): float(rows) for table, rows in self.rows.items()}
        for result in self.results:
            column, table = result["kwargs"].get("column"), result["table"]
            if column is None or not result["element_count"]:
                continue
            if (nulls := _null_share(result)) is not None:
                found[_in(table, NULLS + column)] = nulls
            if result.get("mean") is not None:
                found[_in(table, MEAN + column)] = result["mean"]
        for result in self.results:
            if result["type"] == NOT_NULL and is_fatal(result) and result["kwargs"].get("mostly", 1) == 1:
                found.pop(_in(result["table"], NULLS + result["kwargs"]["column"]), None)
        return found


def _in(table: str, name: str) -> str:
    return f"{table}: {name}" if table else name


def _null_share(result: dict[str, Any]) -> float | None:
    nulls = result["unexpected_count"] if result["type"] == NOT_NULL else result["missing_count"]
    return None if nulls is None else float(nulls / result["element_count"])


def is_fatal(result: dict[str, Any]) -> bool:
    """Tell whether the result fails its stage if it is no success."""
    return bool(result.get("severity", FAIL) == FAIL)


def _warned(result: dict[str, Any]) -> Warned:
    expectation = Expectation(result["type"], result["kwargs"])
    limit = expectation.arguments or "every row"
    name = f"{about(result)}: {expectation.type}"
    return {"expectation": name, "value": _cut(observed(result)), "limit": _cut(limit)}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def about(result: dict[str, Any]) -> str:
    """Name what a result is about: the table, unless it is the main one, and the columns, or its rows."""
    name = ", ".join(Expectation(result["type"], result["kwargs"]).columns) or "rows"
    return f"{result['table']}: {name}" if result["table"] else name


def observed(result: dict[str, Any]) -> str:
    """Say what was found, without a value of a row."""
    if result["error"]:
        return str(result["error"])
    if result["unexpected_count"] is None:
        return f"observed {_without_values(result['observed_value'])}"
    return f"{result['unexpected_count']:,} of {result['element_count']:,} rows"


def _without_values(seen: Any) -> str:
    """Show a number; of all else, such as a column's values, only how much it is."""
    if seen is None or isinstance(seen, int | float):
        return repr(seen)
    if isinstance(seen, str):
        return f"a text of {len(seen):,} characters"
    return f"{len(seen):,} value(s)" if isinstance(seen, list | dict) else f"a {type(seen).__name__}"


def show_example(example: dict[str, Any]) -> str:
    if example["file"] is None:
        return repr(example["value"])
    return f"{example['value']!r} ({example['file']}, row {example['row']})"
