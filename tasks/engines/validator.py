"""The actor that validates batches of rows with Great Expectations, which it imports once per process.

`expectations.Validators` owns a few of these actors. The driver imports this module too, so it imports nothing heavy.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.core.errors import SettingsError
from tasks.engines import witnesses
from tasks.engines.suites import SEVERITIES, Expectation, plain
from tasks.engines.validation import Validation

EXAMPLES = 20
FRAME_ROWS = 50_000  # up to so many rows all are validated: that costs less than a search for witnesses


@dataclass(frozen=True)
class Piece:
    """Row groups of one parquet file, which begin at the file's row `first_row`."""

    file: str
    row_groups: tuple[int, ...]
    first_row: int
    rows: int


class Validator:
    """Validate batches of rows, as an actor that lives as long as the run."""

    def __init__(self) -> None:
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "False")
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)

    def check(self, expectations: list[Expectation], pieces: list[Piece], where: str) -> list[dict[str, Any]]:
        """Validate the rows of these pieces. Returns one partial result per expectation, in the given order."""
        numbered, parts = dict(enumerate(expectations)), {}
        if sum(piece.rows for piece in pieces) > FRAME_ROWS:
            parts = self._check_witnesses(numbered, pieces, where)
        if rest := {n: e for n, e in numbered.items() if n not in parts}:
            parts |= self._check_frame(
                rest, _read(pieces, _columns(rest)).to_pandas(ignore_metadata=True), pieces, where
            )
        return [parts[number] for number in numbered]

    def _check_witnesses(
        self, expectations: dict[int, Expectation], pieces: list[Piece], where: str
    ) -> dict[int, dict[str, Any]]:
        """Return the partial results of the expectations that find in their witnesses what Arrow found in all rows."""
        known = {n: e for n, e in expectations.items() if witnesses.may_have(e)}
        if not known:
            return {}
        table = _read(pieces, _columns(known))
        found = {n: some for n, e in known.items() if (some := witnesses.witnesses(e, table, FRAME_ROWS))}
        if not found:
            return {}
        chosen = sorted({row for some in found.values() for row in some.rows})
        frame = table.take(chosen).to_pandas(ignore_metadata=True).set_axis(chosen)
        parts = self._check_frame({n: known[n] for n in found}, frame, pieces, where)
        # `success` is not enough: with `mostly` it may hold for the witnesses but not for all rows, or the reverse.
        sure = {n: p for n, p in parts.items() if not p["error"] and _failing(p) == found[n].failing}
        for n, part in sure.items():
            part["result"] |= {"element_count": table.num_rows, "missing_count": found[n].missing}
            part["result"]["sum"] = _sum(known[n], table)
        return sure

    def _check_frame(
        self, expectations: dict[int, Expectation], frame: Any, pieces: list[Piece], where: str
    ) -> dict[int, dict[str, Any]]:
        source = self._context.data_sources.add_pandas("snapshot")
        try:
            batches = source.add_dataframe_asset("table").add_batch_definition_whole_dataframe("batch")
            batch = batches.get_batch({"dataframe": frame})
            results = _validate(batch, expectations, "BASIC", where)
            # Row numbers cost a third more, so only expectations with unexpected values are validated again for them.
            shown = {n: expectations[n] for n, r in results.items() if (r.result or {}).get("unexpected_count")}
            if shown:
                results |= _validate(batch, shown, "SUMMARY", where)
        finally:
            self._context.data_sources.delete("snapshot")  # or it would keep the frame in memory
        parts = {number: _part(results[number], pieces) for number in expectations}
        for number, part in parts.items():
            part["result"]["sum"] = _sum(expectations[number], frame)
        return parts

    def write_data_docs(
        self, folder: str, validations: dict[str, Validation], run_name: str, run_time: datetime
    ) -> str:
        from tasks.engines import data_docs

        return str(data_docs.write(Path(folder), validations, run_name, run_time))


def _sum(expectation: Expectation, table: Any) -> float | None:
    """Return the sum of a column of numbers whose range is expected; None for others. table: pandas frame or Arrow.

    It costs next to nothing, as the column is in memory.
    """
    import pyarrow as pa

    if expectation.type != witnesses.BETWEEN:
        return None
    name = expectation.kwargs["column"]
    total = witnesses.total(table[name]) if isinstance(table, pa.Table) else _frame_sum(table, name)
    return total if total is not None and math.isfinite(total) else None


def _frame_sum(frame: Any, name: str) -> float | None:
    return float(frame[name].astype("float64").sum()) if frame[name].dtype.kind in "iuf" else None


def _validate(batch: Any, expectations: dict[int, Expectation], result_format: str, where: str) -> dict[int, Any]:
    """Return the results by number: Great Expectations changes the suite's order, as those that raised come first."""
    import great_expectations as gx

    suite = gx.ExpectationSuite(name="suite", expectations=[_to_gx(e, n, where) for n, e in expectations.items()])
    outcome = batch.validate(
        suite, result_format={"result_format": result_format, "partial_unexpected_count": EXAMPLES}
    )
    return {r.expectation_config.meta["number"]: r for r in outcome.results}


def _to_gx(expectation: Expectation, number: int, where: str) -> Any:
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        return ExpectationConfiguration(
            type=expectation.type,
            kwargs=expectation.kwargs,
            meta={"number": number},
            severity=SEVERITIES[expectation.severity],  # type: ignore[arg-type]  # it takes the word, too
        ).to_domain_obj()
    except (ValueError, TypeError, GreatExpectationsError) as error:  # pydantic's ValidationError is a ValueError
        problems = " ".join(str(error).split())
        raise SettingsError(f"{expectation}: {problems}", where=where, fix="correct it in conf/expectations") from None


def _failing(part: dict[str, Any]) -> int:
    """How many values are unexpected; at least one where they are not counted and the expectation does not hold."""
    unexpected = part["result"]["unexpected_count"]
    return int(not part["success"]) if unexpected is None else int(unexpected)


def _columns(expectations: dict[int, Expectation]) -> list[str]:
    return sorted({column for expectation in expectations.values() for column in expectation.columns})


def _read(pieces: list[Piece], columns: list[str]) -> Any:
    """Read the pieces as one Arrow table; without columns, return a column of nulls with as many rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not columns or not pieces:
        rows = sum(piece.rows for piece in pieces)
        return pa.table({name: pa.nulls(rows) for name in columns or ["no column"]})
    tables = []
    for file, group in itertools.groupby(pieces, lambda piece: piece.file):
        row_groups = [number for piece in group for number in piece.row_groups]
        tables.append(pq.ParquetFile(file).read_row_groups(row_groups, columns=columns))
    return pa.concat_tables(tables)


def _part(outcome: Any, pieces: list[Piece]) -> dict[str, Any]:
    result = outcome.result or {}
    values = result.pop("partial_unexpected_list", None) or []
    rows = result.pop("partial_unexpected_index_list", None) or []
    info = outcome.exception_info or {}
    raised = [i for i in ([info] if "raised_exception" in info else info.values()) if i.get("raised_exception")]
    return {
        "success": bool(outcome.success),
        "result": {k: result.get(k) for k in ("element_count", "missing_count", "unexpected_count", "observed_value")},
        "examples": [
            {"value": plain(value), **_locate(row, pieces)} for value, row in itertools.zip_longest(values, rows)
        ],
        "error": str(raised[0]["exception_message"]).strip() if raised else None,
    }


def _locate(row: int | None, pieces: list[Piece]) -> dict[str, Any]:
    """Return the file of a row of the frame and the row's number in that file; None for both where unknown."""
    for piece in pieces:
        if row is None:
            break
        if row < piece.rows:
            return {"file": Path(piece.file).name, "row": piece.first_row + int(row)}
        row -= piece.rows
    return {"file": None, "row": None}
