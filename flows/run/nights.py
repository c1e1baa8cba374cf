"""The runs before this one, as the report lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.run.record import RunRecord, read_record

SHOWN = 30


def nights(root: Path, this: RunRecord, metric: str) -> list[dict[str, Any]]:
    """Return a row for each of the last runs in ROOT/runs, the latest first; `this` run takes the place of its record.

    stages: seconds of each. promotion: the version, and whether it is champion; "" for a run that did not come so far.
    loss: the tuned model's on its test slice, in this measure; None for a run that did not come so far, or had another
    target. A record that cannot be read is left out.
    """
    records = [this]
    for path in sorted((root / "runs").glob("*.json"), reverse=True):
        if len(records) == SHOWN:
            break
        try:
            record = read_record(path)
        except (OSError, ValueError, TypeError, AttributeError):
            continue
        if record.run_id != this.run_id:
            records.append(record)
    return [_row(record, metric, this.target) for record in sorted(records, key=lambda r: r.run_id, reverse=True)]


def _row(record: RunRecord, metric: str, target: str | None) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "started": record.started or None,
        "state": record.state,
        "rows_in": record.rows_in or None,
        "seconds": record.wall_s,
        "cpu_s": record.cpu_s or None,
        "peak_mb": record.peak_mb or None,
        "cost": record.cost,
        "stages": {row.stage: row.wall_s for row in record.stages},
        "promotion": (record.decision or "").partition(":")[0],  # "version 3 is champion"
        "loss": (record.metrics or {}).get(metric, {}).get("tuned") if record.target == target else None,
    }
