"""The flow `score` as commands start it and tell of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flows.cli.watch_lines import watch_lines

if TYPE_CHECKING:
    from flows.run.record import RunRecord
    from tasks.settings import Settings
    from tasks.sources import Source
    from tasks.stages.score.registered import RegisteredModel


def flow_of(source: Source, out: Path, version: str) -> Callable[[Settings], RunRecord]:
    """Return the flow on what was found, as `launch.started` calls it."""

    def start(masked: Settings) -> RunRecord:
        from flows.run.scoring import SOURCE
        from flows.score import score as flow

        token = SOURCE.set(source)
        try:
            done: RunRecord = flow(masked.data.input, str(out), masked.data.dataset, version, settings=masked)
        finally:
            SOURCE.reset(token)
        return done

    return start


def told(console: Console, record: RunRecord, model: RegisteredModel, out: Path, seconds: float) -> tuple[int, int]:
    """Print what was scored; returns the rows with predictions and without."""
    read, scored = record.row("read-new"), record.row("score")
    assert read is not None
    assert scored is not None
    rows, rejected = scored.rows, read.rejected + scored.rejected
    console.print(
        f"{rows:,} predictions{f' and {rejected:,} rejects' if rejected else ''} "
        f"by {model.name} version {model.version} in {out}: {seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    for line in watch_lines(record.watched) if record.watched else ():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return rows, rejected
