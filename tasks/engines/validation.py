"""The results of a validation, summed over all pieces of each table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from tasks.engines.suites import FAIL, Expectation


class Warned(TypedDict):
    """A warning: something unexpected that fails no stage, each part as text. It shows no value of a row."""

    expectation: str
    value: str
    limit: str


@dataclass(frozen=True)
class Validation:
    """The results, one JSON-able dictionary per expectation, and the number of rows of each table.

    Keys: table, type, kwargs, severity, success, element_count, missing_count, unexpected_count, unexpected_percent (of
    the values that are not missing), examples (value, file, row counted from 0), observed_value, error.
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
        }


def is_fatal(result: dict[str, Any]) -> bool:
    """Tell whether the result fails its stage if it is no success."""
    return bool(result.get("severity", FAIL) == FAIL)


def _warned(result: dict[str, Any]) -> Warned:
    expectation = Expectation(result["type"], result["kwargs"])
    limit = expectation.arguments or "every row"
    return {"expectation": f"{about(result)}: {expectation.type}", "value": observed(result), "limit": limit}


def about(result: dict[str, Any]) -> str:
    """Name what a result is about: the table, unless it is the main one, and the columns, or its rows."""
    name = ", ".join(Expectation(result["type"], result["kwargs"]).columns) or "rows"
    return f"{result['table']}: {name}" if result["table"] else name


def observed(result: dict[str, Any]) -> str:
    """Say what was found, without a value of a row."""
    if result["error"]:
        return str(result["error"])
    if result["unexpected_count"] is None:
        return f"observed {result['observed_value']!r}"
    return f"{result['unexpected_count']:,} of {result['element_count']:,} rows"


def show_example(example: dict[str, Any]) -> str:
    if example["file"] is None:
        return repr(example["value"])
    return f"{example['value']!r} ({example['file']}, row {example['row']})"
