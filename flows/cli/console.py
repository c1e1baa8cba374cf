"""The terminal's view of a run: a line per stage while it runs, and tables at its end."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.cli.tables import compact_table
from flows.run.progress import LOG_EVERY_S, Lines
from flows.run.record import RunRecord, StageRow
from flows.run.warned import lines
from tasks.core.progress import Progress

DRAW_EVERY_S = 0.2
SPINNER = 2  # columns
WIDE = 92  # columns; from this width on each row shows a digest, too


class ConsoleView:
    """A spinner with the progress of the running stages, then a line per finished stage: rows, seconds or reused.

    Where the console is no terminal (a pipe, a file), progress is printed as plain lines, LOG_EVERY_S apart.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._at_work: dict[str, str] = {}  # stage: its latest line, "" before it has reported progress
        self._lock = threading.RLock()  # stages may run side by side
        self._status = console.status("")
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._lines = Lines(DRAW_EVERY_S) if self._live else Lines(LOG_EVERY_S, first_s=LOG_EVERY_S, last=False)

    def started(self, stage: str) -> None:
        with self._lock:
            self._lines.forget(stage)
            self._at_work[stage] = ""
            self._show()

    def progressed(self, progress: Progress) -> None:
        with self._lock:
            line = self._lines.next(progress, self.console.width - SPINNER if self._live else None)
            if line is None:
                return
            if self._live:
                self._at_work[progress.stage] = line
                self._show()
            else:
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def ended(self, row: StageRow) -> None:
        rows = f"{row.rows:>10,} {row.unit:<6}" if row.rows else " " * 17
        done = "[dim]reused[/]" if row.reused else f"{row.wall_s:6.1f} s"
        lost = _dropped(row)
        lost += [f"{row.quarantined:,} file(s) quarantined"] if row.quarantined else []
        lost += [f"{row.lost_values:,} optional value(s) unknown"] if row.lost_values else []
        more = f"  [yellow]{', '.join(lost)}[/]" if lost else ""
        if taken := row.notes.get("parts_taken_over"):
            more += f"  [dim]{taken:,} of {row.notes['parts']:,} parts as before[/]"
        if row.warnings:
            more += f"  [yellow]{len(row.warnings):,} warning(s)[/]"
        if not row.recorded:
            more += "  [yellow]MLflow does not answer; to be recorded later[/]"
        self.console.print(f"[green]✓[/] {row.stage:<16}{rows}  {done}{more}", highlight=False)
        self._done(row.stage)

    def failed(self, stage: str, error: BaseException) -> None:
        self.console.print(f"[red]✗[/] {stage}", highlight=False)
        self._done(stage)

    def _done(self, stage: str) -> None:
        with self._lock:
            self._at_work.pop(stage, None)
            self._show()

    def _show(self) -> None:
        if not self.console.is_terminal:
            return
        if self._at_work:
            silent = ", ".join(stage for stage, line in self._at_work.items() if not line)
            lines = [line for line in self._at_work.values() if line]
            lines += [f"{silent} …"] if silent else []
            self._status.update(Text(f"\n{' ' * SPINNER}".join(lines)))
            self._status.start()
        else:
            self._status.stop()


def stage_table(record: RunRecord, *, with_digests: bool) -> Table:
    """Return a table of what each stage did; it fits 80 columns without digests.

    Units other than rows follow the number; dropped rows get a column if there are any.
    """
    digits = max((len(f"{row.rows:,}") for row in record.stages), default=0)
    any_dropped = any(_dropped(row) for row in record.stages)
    columns: dict[str, JustifyMethod] = {"stage": "left", "rows in": "right", f"{'out':>{digits}}": "left"}
    columns |= {"dropped": "right"} if any_dropped else {}
    columns |= {"seconds": "right"}
    columns |= {"snapshot": "left"} if with_digests else {}
    table = compact_table(f"Run {record.run_id}", columns)
    for row in record.stages:
        cells = [row.stage, f"{row.rows_in:,}" if row.rows_in else ""]
        cells.append(f"{row.rows:>{digits},} {row.unit if row.unit != 'rows' else ''}" if row.rows else "")
        cells += ["\n".join(_dropped(row))] if any_dropped else []
        cells.append("reused" if row.reused else f"{row.wall_s:,.1f}")
        table.add_row(*cells, *([row.digest[:8]] if with_digests else []))
    return table


def _dropped(row: StageRow) -> list[str]:
    """List the counts of rows that came in and did not go out, by kind."""
    counts = {"rejected": row.rejected, "repeated": row.repeated, "forgotten": row.forgotten, "left out": row.left_out}
    return [f"{count:,} {kind}" for kind, count in counts.items() if count]


def print_summary(console: Console, record: RunRecord) -> None:
    """Print the tables and links at the end of a run."""
    console.print(stage_table(record, with_digests=console.width >= WIDE))
    console.print()
    if record.metrics is not None:
        console.print(_scores(record.metrics))
        console.print()
    if record.warnings:
        console.print(f"Warnings ({len(record.warnings):,})", style="yellow", highlight=False)
        for text in lines(record.warnings):
            console.print(Padding(Text(text), (0, 0, 0, 2)), highlight=False)
        console.print()
    if record.decision is not None:
        console.print(f"Model {record.decision}", highlight=False)
    for label, place in (("Report", record.report), ("Data Docs", record.data_docs), ("MLflow", record.mlflow)):
        if place:
            console.print(f"{label + ':':<10} {place}", highlight=False, soft_wrap=True)
    for line in record.caught_up or ():
        console.print(f"Recorded in MLflow now, of run {line}", highlight=False, markup=False)
    if record.unrecorded:
        waiting = ", ".join(record.unrecorded)
        console.print(f"Not recorded in MLflow yet, the next run will: {waiting}", style="yellow")
    if all(row.reused for row in record.stages):
        console.print("Nothing has changed: every stage was reused, none ran.", highlight=False)
    console.print(f"{record.wall_s:.1f} s", highlight=False)


def _scores(metrics: Mapping[str, Mapping[str, float]]) -> Table:
    """Return {measure: {model: value}} as a table; unknown values are left empty."""
    from tasks.domain.metrics import MODELS, NAMES

    columns: dict[str, JustifyMethod] = {"model": "left", **{NAMES[name]: "right" for name in metrics}}
    scores = compact_table("On the untouched test slice", columns)
    for model, label in MODELS.items():
        if any(model in of for of in metrics.values()):
            scores.add_row(label, *(f"{of[model]:.4f}" if model in of else "" for of in metrics.values()))
    return scores
