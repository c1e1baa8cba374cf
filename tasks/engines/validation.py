"""Hold what a validation found, added up over all pieces of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Validation:
    """What came out: one JSON-able dictionary per expectation, and the rows of each table.

    Keys: table, type, kwargs, success, element_count, missing_count, unexpected_count, unexpected_percent (of what
    is not missing), examples (value, file, row counted from 0), observed_value, error.
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
