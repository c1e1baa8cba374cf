"""Suites: the expectations on each stage's tables, read from YAML.

    # conf/expectations/STAGE.yaml
    tables:
      "":                                         # the main table; "rejects", "train", … are others
        - type: expect_column_values_to_be_between
          column: rating
          min_value: 1
          max_value: 5

An entry is a Great Expectations type in snake case and its arguments. With `only_if: remove_html` it is expected only
if this switch is on in the stage's section of the settings (`groups.user`: a nested switch). With `severity: warn` it
fails no stage (default: fail). This module does not import great_expectations.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tasks.core.errors import SettingsError
from tasks.core.settings import CONF

# Checked row by row, so that the counts of batches can be added. (Types are checked on a column's dtype in pandas, and
# "increasing" compares with the row before: those two need the whole table.)
ROW_WISE = frozenset(
    {
        "expect_column_values_to_not_be_null",
        "expect_column_values_to_be_null",
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_not_be_in_set",
        "expect_column_values_to_match_regex",
        "expect_column_values_to_not_match_regex",
        "expect_column_values_to_match_regex_list",
        "expect_column_values_to_not_match_regex_list",
        "expect_column_values_to_match_strftime_format",
        "expect_column_values_to_be_dateutil_parseable",
        "expect_column_values_to_be_json_parseable",
        "expect_column_values_to_match_json_schema",
        "expect_column_value_lengths_to_be_between",
        "expect_column_value_lengths_to_equal",
        "expect_column_pair_values_to_be_equal",
        "expect_column_pair_values_to_be_in_set",
        "expect_column_pair_values_a_to_be_greater_than_b",
        "expect_multicolumn_sum_to_equal",
        "expect_multicolumn_values_to_be_equal",
        "expect_select_column_values_to_be_unique_within_record",
    }
)
_ROW_COUNTS = ("expect_table_row_count_to_be_between", "expect_table_row_count_to_equal")
FAIL, WARN = "fail", "warn"
SEVERITIES = {FAIL: "critical", WARN: "warning"}  # ours, and Great Expectations'
_OURS = ("type", "only_if", "severity")  # keys of an entry that are no arguments
_COLUMN_KEYS = ("column", "column_A", "column_B", "column_list")
# Set by us, or (a row condition) in need of columns that are not read.
_NOT_IN_A_SUITE = {
    "id",
    "batch_id",
    "result_format",
    "catch_exceptions",
    "rendered_content",
    "metadata",
    "windows",
    "row_condition",
    "condition_parser",
}


@dataclass(frozen=True)
class Expectation:
    """One entry of a suite: a Great Expectations type in snake case, and its arguments."""

    type: str
    kwargs: dict[str, Any]
    only_if: str | None = None
    severity: str = FAIL

    @property
    def columns(self) -> tuple[str, ...]:
        given = [self.kwargs[key] for key in _COLUMN_KEYS if key in self.kwargs]
        return tuple(itertools.chain.from_iterable([c] if isinstance(c, str) else c for c in given))

    @property
    def arguments(self) -> str:
        """The arguments other than columns, as text."""
        return ", ".join(f"{k}={plain(v)!r}" for k, v in self.kwargs.items() if k not in _COLUMN_KEYS)

    def __str__(self) -> str:
        return f"{self.type}({self.arguments})"


@dataclass(frozen=True)
class Suite:
    """The expectations on a stage's tables; "" is the main table."""

    stage: str
    tables: dict[str, tuple[Expectation, ...]]

    def under(self, config: object) -> Suite:
        """Return the suite for these settings of the stage. Raises SettingsError for a switch that they lack."""
        switches = {e.only_if for entries in self.tables.values() for e in entries if e.only_if}
        if unknown := sorted(name for name in switches if not isinstance(_switch(config, name), bool)):
            raise SettingsError(
                f"only_if: {unknown[0]!r} is not a switch of the stage {self.stage!r}",
                where="conf/expectations",
                fix="see the stage's section in conf/base.yaml",
            )
        return Suite(
            self.stage,
            {
                table: tuple(e for e in entries if e.only_if is None or _switch(config, e.only_if))
                for table, entries in self.tables.items()
            },
        )


def _switch(config: object, name: str) -> Any:
    """Return the setting `name` of a section, or a nested `group.name`; None if there is none."""
    for part in name.split("."):
        config = getattr(config, part, None)
    return config


def load_suite(stage: str, folder: Path = CONF / "expectations") -> Suite:
    """Read a stage's suite. Raises SettingsError for a missing or malformed file, naming the entry.

    This checks the names of types and arguments; Great Expectations checks the arguments' values, on first use.
    """
    path = folder / f"{stage.replace('-', '_')}.yaml"
    if not path.exists():
        raise SettingsError(
            f"no expectations for the stage {stage!r}",
            where=str(path),
            fix="write the file; `tables: {}` expects nothing",
        )
    try:
        loaded = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SettingsError(f"not YAML: {error}", where=str(path)) from None
    tables = loaded.get("tables") if isinstance(loaded, dict) and set(loaded) == {"tables"} else None
    if not isinstance(tables, dict) or not all(isinstance(entries, list) for entries in tables.values()):
        raise SettingsError(
            "expected `tables:`, and under it a list of expectations for each table",
            where=str(path),
            fix='"" is the main table',
        )
    return Suite(
        stage,
        {
            str(table or ""): tuple(
                _parse(entry, where=f"{path}, table {table!r}, entry {number}")
                for number, entry in enumerate(entries, start=1)
            )
            for table, entries in tables.items()
        },
    )


def _parse(entry: Any, *, where: str) -> Expectation:
    from difflib import get_close_matches

    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise SettingsError(f"expected a mapping with a `type`, got {entry!r}", where=where)
    kind, kwargs = entry["type"], {key: value for key, value in entry.items() if key not in _OURS}
    severity = entry.get("severity", FAIL)
    if severity not in SEVERITIES:
        raise SettingsError(
            f"severity is {FAIL} or {WARN}, not {severity!r}", where=where, fix="without it, a failure fails the stage"
        )
    known = _argument_schemas()
    if kind not in known:
        near = get_close_matches(kind, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see https://greatexpectations.io/expectations"
        raise SettingsError(f"unknown expectation {kind!r}", where=where, fix=hint)
    allowed, required = _arguments(kind)
    for key in sorted(set(kwargs) - allowed if allowed else set(kwargs) & _NOT_IN_A_SUITE):
        fix = f"it takes {', '.join(sorted(allowed))}" if allowed else ""
        raise SettingsError(f"{kind} takes no {key!r}", where=where, fix=fix)
    for key in sorted(required - set(kwargs)):
        raise SettingsError(f"{kind} needs {key!r}", where=where)
    return Expectation(kind, kwargs, entry.get("only_if"), severity)


@lru_cache(maxsize=1)
def _argument_schemas() -> dict[str, Path | None]:
    """Return each usable type, and the JSON schema of its arguments if the library ships one.

    Read from the package's folder, as importing it takes 4 s.
    """
    package = find_spec("great_expectations")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "expectations" / "core"
    schemas = {path.stem.lower(): path for path in (folder / "schemas").glob("*.json")}
    types = [path.stem for path in folder.glob("expect_*.py")]
    # Types over a query, another table or all columns would need more than the columns that are read.
    usable = [t for t in types if t in _ROW_COUNTS or not t.startswith(("expect_table_", "expect_query_"))]
    return {t: schemas.get(t.replace("_", "")) for t in sorted(usable)}


def _arguments(kind: str) -> tuple[set[str], set[str]]:
    path = _argument_schemas()[kind]
    if path is None:
        return set(), set()
    schema = json.loads(path.read_text())
    return set(schema["properties"]) - _NOT_IN_A_SUITE, set(schema.get("required", ()))


def plain(value: Any) -> Any:
    """Convert to a JSON value: anything else becomes text, and long text is cut."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, date):
        value = value.item()  # a numpy scalar
    if value is None or value != value:  # NaN and NaT differ from themselves
        return None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return value if len(value) <= 200 else f"{value[:200]}…"
    return value if isinstance(value, (bool, int, float)) else str(value)
