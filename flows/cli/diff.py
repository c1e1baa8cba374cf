"""`raymill diff A B`: print how two snapshots, or two runs, differ, the most different first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.cli.tables import NotedRow, compact_table, noted_table
from flows.compare.named import Names
from flows.compare.runs import RunDiff, StagePair, compare_runs
from flows.compare.snapshots import SnapshotDiff, TableDiff, compare_snapshots
from flows.run.record import RunRecord, StageRow
from tasks.algorithms.column_shifts import Shift
from tasks.core.errors import UserError
from tasks.core.secrets import masked
from tasks.core.snapshots import Manifest
from tasks.core.storage.opening import open_store
from tasks.settings import Settings

SHOWN = 10  # lines of a list that are printed without --all
MISSING = "–"
LONGEST = 40  # characters of a value
SHIFT_COLUMNS = ("column", "distance", "chance", "by")
Diff = SnapshotDiff | RunDiff


def compare(settings: Settings, a: str | None, b: str | None) -> Diff:
    """Compare what two names stand for; the last two runs without names. Raises UserError."""
    store = open_store(settings.storage)
    names = Names(store)
    if a is None and b is None:
        return compare_runs(*names.last_two(), names.manifests)
    if a is None or b is None:
        raise UserError("there is nothing to compare it with", where=str(a or b), fix="give two, or none")
    first, second = names.find(a), names.find(b)
    if isinstance(first, RunRecord) and isinstance(second, RunRecord):
        return compare_runs(first, second, names.manifests)
    if isinstance(first, Manifest) and isinstance(second, Manifest):
        return compare_snapshots(store, first, second)
    raise UserError("a run and a snapshot cannot be compared", where=f"{a}, {b}", fix="STAGE@RUN is a run's snapshot")


def print_diff(console: Console, diff: Diff, *, everything: bool = False) -> None:
    shown = 1 << 30 if everything else SHOWN
    if isinstance(diff, RunDiff):
        _print_runs(console, diff, shown)
    else:
        _print_snapshots(console, diff, shown)


def _print_snapshots(console: Console, diff: SnapshotDiff, shown: int) -> None:
    for label, side in (("A", diff.a), ("B", diff.b)):
        when = side.committed_at[:16].replace("T", " ")
        _say(console, f"{label} {side.stage}@{side.digest[:12]}, made {when}, {side.seconds.get('run', 0):,.1f} s")
    _list(console, "Made differently:", [change.says for change in diff.changes], shown)
    if diff.a.digest == diff.b.digest:
        _say(console, "\nThe same content.")
        return
    if alike := [_named(table) for table in diff.tables if table.same]:
        _say(console, f"\nThe same: {', '.join(alike)}")
    for table in diff.tables:
        if not table.same:
            _print_table(console, table, shown)
    values = [f"{value.name}: {_apart(value.a, value.b)}" for value in diff.values]
    _list(console, "Counts and facts:", [masked(line) for line in values], shown)
    _list(console, "Other files that differ:", diff.files, shown)


def _print_table(console: Console, table: TableDiff, shown: int) -> None:
    rows = [MISSING if n is None else f"{n:,}" for n in table.rows]
    _say(console, f"\n{_named(table)[0].upper()}{_named(table)[1:]}: {rows[0]} → {rows[1]} rows")
    for label, columns in (("new columns", table.added), ("dropped columns", table.dropped)):
        if columns:
            _say(console, f"  {label}: {', '.join(columns)}")
    for column, (before, after) in (table.retyped or {}).items():
        _say(console, f"  {column}: {before} → {after}")
    differing = [shift for shift in table.shifts if shift.differs]
    listed = table.shifts if shown > SHOWN else differing[:shown]
    if listed:
        console.print(noted_table(SHIFT_COLUMNS, [_shift_row(s) for s in listed], right={"distance", "chance"}))
    rest = [f"{len(differing) - len(listed)} more differ"] if len(differing) > len(listed) else []
    if (alike := len(table.shifts) - len(differing)) and shown <= SHOWN:
        rest.append(f"{alike} columns are distributed alike")
    if rest:
        _say(console, f"  {', '.join(rest)}{': --all shows them' if len(differing) > len(listed) else ''}")


def _named(table: TableDiff) -> str:
    return f"table {table.name}" if table.name else "main table"


def _shift_row(shift: Shift) -> NotedRow:
    return NotedRow([shift.column, f"{shift.distance:.3f}", f"{shift.by_chance:.3f}", shift.measure], [_summary(shift)])


def _summary(shift: Shift) -> str:
    a, b = shift.a, shift.b
    parts = []
    if shift.kind == "category":
        parts = [f"{name} " + _pair(f"{share:.1%}", f"{b['top'][name]:.1%}") for name, share in a["top"].items()]
    elif shift.kind == "time":
        parts = [f"{name} {_pair(_day(a[name]), _day(b[name]))}" for name in ("min", "mean", "max")]
    else:
        of = "length " if shift.kind == "length" else ""
        parts = [f"{of}mean {_pair(a['mean'], b['mean'])}", f"sd {_pair(a['std'], b['std'])}"]
        if a["min"] != b["min"] or a["max"] != b["max"]:
            parts.append(f"range {_text(a['min'])} to {_text(a['max'])} → {_text(b['min'])} to {_text(b['max'])}")
    if a.get("different") != b.get("different"):
        parts.append(f"about {_pair(a['different'], b['different'])} different")
    if a["missing"] or b["missing"]:
        parts.append(f"missing {_pair(a['missing'], b['missing'])}")
    return ", ".join(parts)


def _day(milliseconds: float | None) -> str | None:
    return None if milliseconds is None else f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d}"


def _pair(a: Any, b: Any) -> str:
    """Return `a → b`, or one of them if they look the same."""
    before, after = _text(a), _text(b)
    return before if before == after else f"{before} → {after}"


def _apart(a: Any, b: Any) -> str:
    """Return `a → b`, with all digits if four do not tell them apart."""
    if _text(a) != _text(b):
        return _pair(a, b)
    in_full = [json.dumps(side, ensure_ascii=False) for side in (a, b)]
    return " → ".join(in_full) if max(map(len, in_full)) <= LONGEST else f"{_text(a)} differ further on"


def _text(value: Any) -> str:
    """Return a value shortly: numbers with four digits."""
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _print_runs(console: Console, diff: RunDiff, shown: int) -> None:
    for label, run in (("A", diff.a), ("B", diff.b)):
        used = f"{run.wall_s:,.1f} s, {run.cpu_s:,.1f} CPU s, {run.peak_mb:,} MB"
        at = f" in {run.failed['stage']}" if run.failed else ""
        _say(console, f"{label} {run.run_id}, {run.state}{at}, {used}")
    _say(console, "")
    rows = []
    for pair in diff.stages:
        if pair.a is None or pair.b is None:
            continue
        a, b = pair.a, pair.b
        cells = [pair.stage, _rows(a, b), _pair(_seconds(a), _seconds(b)), _pair(a.digest[:8], b.digest[:8])]
        rows.append(NotedRow(cells, _reasons(pair, shown)))
    console.print(noted_table(["stage", "rows", "seconds", "snapshot"], rows, right={"rows", "seconds"}))
    for label, names in (
        ("A", [pair.stage for pair in diff.stages if pair.b is None]),
        ("B", [pair.stage for pair in diff.stages if pair.a is None]),
    ):
        if names:
            _say(console, f"Only in {label}: {', '.join(names)}")
    if diff.losses:
        _say(console, "")
        console.print(_losses(diff.losses), highlight=False)
    for label, run in (("A", diff.a), ("B", diff.b)):
        if run.decision:
            _say(console, f"{label}: model {masked(run.decision)}")


def _losses(losses: Mapping[str, Mapping[str, tuple[float | None, float | None]]]) -> Table:
    """Return a table with a row for each model and a column for each measure."""
    from tasks.domain.metrics import MODELS, NAMES

    table = compact_table(None, {"model": "left", **{NAMES.get(measure, measure): "right" for measure in losses}})
    for model in dict.fromkeys(model for of in losses.values() for model in of):
        cells = [_pair(*(side and f"{side:.4f}" for side in of.get(model, (None, None)))) for of in losses.values()]
        table.add_row(MODELS.get(model, model), *cells)
    return table


def _seconds(row: StageRow) -> str:
    return "reused" if row.reused else f"{row.wall_s:,.1f}"


def _rows(a: StageRow, b: StageRow) -> str:
    return _pair(a.rows or None, b.rows or None) if a.rows or b.rows else ""


def _reasons(pair: StagePair, shown: int) -> list[str]:
    """Say what makes the difference; the inputs that are other snapshots last, on one line."""
    inputs = [change for change in pair.changes if change.kind == "input"]
    other = [change.name for change in inputs if change.before and change.now]
    lines = [change.says for change in pair.changes if change.kind != "input" or not (change.before and change.now)]
    lines = _few(lines, shown)
    if other:
        lines.append(f"made from another {', '.join(other)}")
    if pair.removed:
        lines.append("a snapshot was removed, so what has changed is not known")
    return lines


def _list(console: Console, title: str, lines: Sequence[str], shown: int) -> None:
    if lines:
        _say(console, f"\n{title}")
        for line in _few(lines, shown):
            _say(console, f"  {line}")


def _few(lines: Sequence[str], shown: int) -> list[str]:
    more = len(lines) - shown
    return [*lines[:shown], *([f"{more:,} more: --all shows them"] if more > 0 else [])]


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False)
