"""The results of a validation, summed over all pieces of each table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Validation:
    """The results, one JSON-able dictionary per expectation, and the number of rows of each table.

    Keys: table, type, kwargs, success, element_count, missing_count, unexpected_count, unexpected_percent (of the
    values that are not missing), examples (value, file, row counted from 0), observed_value, error.
    """

    stage: str
    results: list[dict[str, Any]]
    rows: dict[str, int]

    @property
    def success(self) -> bool:
        return all(result["success"] for result in self.results)

    def failures(self) -> list[dict[str, Any]]:
        return [result for result in self.results if not result["success"]]

    def summary(self) -> dict[str, int]:
        return {
            "expectations": len(self.results),
            "failed": len(self.failures()),
            "rows": sum(self.rows.values()),
            "unexpected": sum(result["unexpected_count"] or 0 for result in self.results),
        }


def show_example(example: dict[str, Any]) -> str:
    if example["file"] is None:
        return repr(example["value"])
    return f"{example['value']!r} ({example['file']}, row {example['row']})"
