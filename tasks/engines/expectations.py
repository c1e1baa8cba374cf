"""Great Expectations over whole tables: suites from YAML, validated in parallel by Ray actors.

In: a stage's suite (conf/expectations/STAGE.yaml) and the parquet files of its tables. Out: a `Validation`, with
exact counts over all rows, and examples of unexpected values with their file and row.

Great Expectations validates one pandas frame in one process. So each table is cut into batches of rows, a few
long-lived actors validate the batches, and the counts are summed. The sums decide success, by Great Expectations' own
rule. Expectations without counts to sum (uniqueness, row counts, means) are validated once, over only the columns that
they need. This module imports nothing heavy: great_expectations costs 4 s of CPU to import.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.core.errors import RaymillError, TransientError, ValidationFailed
from tasks.engines.suites import ROW_WISE, Expectation, Suite, load_suite, plain
from tasks.engines.validation import Validation, about, observed, show_example
from tasks.engines.validator import EXAMPLES, Piece, Validator
from tasks.engines.witnesses import may_have

__all__ = ["Suite", "Validation", "Validators", "load_suite", "raise_on_failure"]

BATCH_ROWS = 250_000  # 1 to 1.5 s for a dozen expectations, against a fixed cost of 0.1 s per call
TABLE_ROWS = 1_000_000  # the same for expectations with witnesses, which take columns in memory but no whole frame


class Validators:
    """A few Ray actors that run Great Expectations. Needs a live Ray session; close it when the run ends."""

    def __init__(self, workers: int = 2) -> None:
        """Start one actor and return at once: the actor imports Great Expectations while the first stage runs.

        The others start with the first table of more than one batch, as each import costs 4 s of CPU. Actors hold no
        logical CPU: they work only while a stage's output waits for them. Half a CPU held for the whole run would make
        a training group that wants every CPU wait for ever.
        """
        import ray

        self._limit = workers
        # The run may outlive several nodes, so the actor restarts. A call during which it dies is retried once.
        self._actor: Any = ray.remote(Validator).options(num_cpus=0, max_restarts=-1, max_task_retries=1)
        self._workers: list[Any] = [self._actor.remote()]
        self._turn = itertools.count()  # its next() is atomic, so threads may share it

    def validate(self, suite: Suite, tables: dict[str, list[Path]]) -> Validation:
        """Validate whole tables, each given as parquet files in row order. A table without files has no rows.

        Raises SettingsError for an argument's value that Great Expectations refuses.
        """
        jobs: list[tuple[str, tuple[int, ...], Any]] = []
        rows, errors = {}, {}
        for table, expectations in suite.tables.items():
            pieces, columns = _survey(tables.get(table, []))
            rows[table] = sum(piece.rows for piece in pieces)
            for number, expectation in enumerate(expectations):
                missing = [c for c in expectation.columns if pieces and c not in columns]
                if missing:
                    errors[table, number] = f"no column {missing[0]!r}; the table has {', '.join(columns)}"
            checked = {n: e for n, e in enumerate(expectations) if (table, n) not in errors}
            calls = list(plan(checked, pieces))
            if rows[table] > BATCH_ROWS:
                slow = [numbers for numbers, _ in calls if not all(may_have(checked[n]) for n in numbers)]
                while len(self._workers) < min(len(slow), self._limit):
                    self._workers.append(self._actor.remote())
            for numbers, batch in calls:
                worker = self._workers[next(self._turn) % len(self._workers)]
                where = f"expectations of {suite.stage}, table {table!r}"
                job = worker.check.remote([checked[n] for n in numbers], batch, where)
                jobs.append((table, numbers, job))

        parts: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for table, numbers, job in jobs:
            for number, part in zip(numbers, _get(job), strict=True):
                parts.setdefault((table, number), []).append(part)
        results = [
            _merge(table, expectation, parts.get((table, number), []), errors.get((table, number)))
            for table, expectations in suite.tables.items()
            for number, expectation in enumerate(expectations)
        ]
        return Validation(suite.stage, results, rows)

    def write_data_docs(
        self, folder: Path, validations: dict[str, Validation], run_name: str, run_time: datetime
    ) -> Path:
        """Add a run to the Data Docs in `folder`, in one actor. Returns the path of index.html."""
        worker = self._workers[next(self._turn) % len(self._workers)]
        return Path(_get(worker.write_data_docs.remote(str(folder), validations, run_name, run_time)))

    def close(self) -> None:
        import ray

        for worker in self._workers:
            ray.kill(worker)
        self._workers = []


def _get(job: Any) -> Any:
    import ray

    try:
        return ray.get(job)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RaymillError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise TransientError(
            f"a validating process was lost: {error}", fix="run again; it may have run out of memory"
        ) from None


def _survey(files: Sequence[Path]) -> tuple[list[Piece], list[str]]:
    """Return one piece per row group, and the names of the columns. Reads only the files' footers."""
    import pyarrow.parquet as pq

    pieces: list[Piece] = []
    columns: list[str] = []
    for file in files:
        footer = pq.read_metadata(file)
        columns = columns or footer.schema.to_arrow_schema().names
        first_row = 0
        for group in range(footer.num_row_groups):
            rows = footer.row_group(group).num_rows
            pieces.append(Piece(str(file), (group,), first_row, rows))
            first_row += rows
    return pieces, columns


def plan(expectations: dict[int, Expectation], pieces: list[Piece]) -> Iterator[tuple[tuple[int, ...], list[Piece]]]:
    """Yield the expectations to validate in one call, by number, and the pieces. A small table takes one call."""
    rows = sum(piece.rows for piece in pieces)
    if pieces and rows <= BATCH_ROWS:
        if expectations:
            yield tuple(expectations), pieces
        return
    row_wise = {n: e for n, e in expectations.items() if e.type in ROW_WISE}
    for limit, numbers in (
        (TABLE_ROWS, tuple(n for n, e in row_wise.items() if may_have(e))),
        (BATCH_ROWS, tuple(n for n, e in row_wise.items() if not may_have(e))),
    ):
        for batch in _batches(pieces, rows, limit) if numbers else ():
            yield numbers, batch
    whole = [n for n in expectations if n not in row_wise]
    # One set of columns at a time, so that no more is in memory than one expectation needs.
    for _, group in itertools.groupby(
        sorted(whole, key=lambda n: expectations[n].columns), lambda n: expectations[n].columns
    ):
        yield tuple(group), pieces


def _batches(pieces: list[Piece], rows: int, limit: int) -> Iterator[list[Piece]]:
    """Group consecutive pieces into as few batches as about `limit` rows in each allow, all of about equal size."""
    count = -(-rows // limit)
    starts = itertools.accumulate((piece.rows for piece in pieces), initial=0)
    placed = [
        (int((start + piece.rows / 2) * count / rows), piece) for piece, start in zip(pieces, starts, strict=False)
    ]
    for _, batch in itertools.groupby(placed, key=lambda p: p[0]):
        yield [piece for _, piece in batch]


def _merge(table: str, expectation: Expectation, parts: list[dict[str, Any]], error: str | None) -> dict[str, Any]:
    error = error or next((part["error"] for part in parts if part["error"]), None)
    counted = [part["result"] for part in parts if part["result"].get("unexpected_count") is not None]
    counts: dict[str, int | None] = dict.fromkeys(("element_count", "missing_count", "unexpected_count"))
    percent, seen = 0.0, None
    mean = None
    if len(counted) == len(parts):
        counts = {name: sum(result.get(name) or 0 for result in counted) for name in counts}
        elements, missing, unexpected = (count or 0 for count in counts.values())
        # Exactly Great Expectations' rule (_mostly_success): float division, and success where no value is present.
        present = elements - missing
        success = present == 0 or (float(present) - float(unexpected)) / float(present) >= expectation.kwargs.get(
            "mostly", 1
        )
        percent = 100 * unexpected / present if present else 0.0
        sums = [result.get("sum") for result in counted]
        mean = sum(s for s in sums if s is not None) / present if present and None not in sums else None
    else:
        success = all(part["success"] for part in parts)
        seen = plain(parts[0]["result"].get("observed_value"))
    return {
        "table": table,
        "type": expectation.type,
        "kwargs": plain(expectation.kwargs),
        "severity": expectation.severity,
        "success": success and error is None,
        **counts,
        "unexpected_percent": percent,
        "mean": mean,
        "examples": list(itertools.islice(itertools.chain.from_iterable(p["examples"] for p in parts), EXAMPLES)),
        "observed_value": seen,
        "error": error,
    }


def raise_on_failure(stage: str, validation: Validation, docs_link: str) -> None:
    """Raise ValidationFailed if an expectation failed, with counts and examples of up to five, and a link to all."""
    failures = validation.failures()
    if failures:
        lines = [describe(failure) for failure in failures[:5]]
        if len(failures) > 5:
            lines.append(f"and {len(failures) - 5} more")
        raise ValidationFailed(
            f"{len(failures)} of {len(validation.results)} expectations failed; nothing was committed\n  "
            + "\n  ".join(lines),
            where=stage,
            fix=f"all results: {docs_link}; the expectations: conf/expectations/{stage.replace('-', '_')}.yaml",
        )


def describe(result: dict[str, Any]) -> str:
    """Describe a result in one line: table and column, expectation, number of unexpected rows, three examples."""
    line = f"{about(result)}: {Expectation(result['type'], result['kwargs'])}: {observed(result)}"
    examples = ", ".join(show_example(example) for example in result["examples"][:3])
    return f"{line}, for example {examples}" if examples and not result["error"] else line
