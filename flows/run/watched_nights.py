"""The nights that were scored and watched, a small file each: ROOT/score/nights/NIGHT.json.

A night is one set of predictions: scoring the same reviews again by the same model is the same night. Its file keeps
what was expected of them, and later, once stars have come in, what became of them; `raymill gc` leaves it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from flows.run.record import RunRecord
from tasks.core.digests import digest_of
from tasks.core.locks import locked
from tasks.core.snapshots import Snapshot
from tasks.core.whole_files import write_whole
from tasks.stages.watch.findings import LEARNED, REALISED

FOLDER, LOCK = "nights", ".lock"
KEPT = ("run_id", "started", "mlflow_run", "seconds", "told", "stars_seen")  # of the first run of a night
SHOWN = 30  # nights on the page, and nights for which stars are looked for


@dataclass(frozen=True)
class Night:
    """One night. predictions: the key of its snapshot of `score`. found: `tasks.stages.watch.findings.Findings`, with
    the latest realised loss. drifted: the columns furthest from the reference, and their PSI; moved: the slices whose
    share changes the loss most, and by how much of the mean row loss. told: events that were posted."""

    night: str
    run_id: str = ""
    started: str = ""
    mlflow_run: str = ""
    dataset: str | None = None
    target: str | None = None
    model: str = ""
    version: str = ""
    predictions: str = ""
    rows: int = 0
    rejected: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    drifted: Mapping[str, float] = field(default_factory=dict)
    moved: Mapping[str, float] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    stars_seen: str = ""  # the snapshot in which its stars were looked for last

    @classmethod
    def of(cls, record: RunRecord, read: Snapshot, scored: Snapshot, watched: Snapshot) -> Night:
        """Return the night of a run that has scored and watched."""
        facts = dict(watched.facts)
        return cls(
            night=name_of(scored, record),
            run_id=record.run_id,
            started=record.started,
            mlflow_run=record.mlflow_run,
            dataset=record.dataset,
            target=record.target,
            model=str(facts.pop("model")),
            version=str(facts.pop("version")),
            predictions=scored.key,
            rows=int(facts.pop("rows")),
            rejected=read.rows("rejects") + scored.rows("rejects"),
            seconds={row.stage: row.wall_s for row in record.stages},
            found=facts,
            drifted=_furthest(watched),
            moved=_moved(watched),
        )

    @property
    def warnings(self) -> list[dict[str, str]]:
        return list(self.found.get("warnings", ()))

    @property
    def is_open(self) -> bool:
        """Whether stars may still come in."""
        settled = int(self.found.get("realised_rows") or 0) + int(self.found.get("learned_rows") or 0)
        return settled < self.rows and self.found.get("unseen_from") is not None


def name_of(scored: Snapshot, record: RunRecord) -> str:
    """Return the name of the night with these predictions. Those of no review are always the same: a feed that is
    empty has a night each day."""
    return (scored.digest if scored.rows() else digest_of([scored.digest, record.started[:10]]))[:16]


def _furthest(watched: Snapshot, most: int = 5) -> dict[str, float]:
    """Return the PSI of the prediction, and of the columns furthest away, of the whole night."""
    rows = [row for row in watched.read(columns=["slice", "column", "psi"]).to_pylist() if row["slice"] == "all"]
    ordered = sorted(rows, key=lambda row: (row["column"] != "prediction", -row["psi"], row["column"]))
    return {row["column"]: round(row["psi"], 4) for row in ordered[: most + 1]}


def _moved(watched: Snapshot, most: int = 5) -> dict[str, float]:
    rows = [row for row in watched.read("slices", ["slice", "effect"]).to_pylist() if row["effect"]]
    ordered = sorted(rows, key=lambda row: (-row["effect"], row["slice"]))
    return {row["slice"]: round(row["effect"], 5) for row in ordered[:most] if row["effect"] > 0}


def read_nights(root: Path) -> list[Night]:
    """Return the nights below a root of scoring runs, the latest first. A file that cannot be read is left out."""
    nights = []
    for path in (root / FOLDER).glob("*.json"):
        try:
            stored = json.loads(path.read_text())
            nights.append(Night(**{of.name: stored[of.name] for of in fields(Night) if of.name in stored}))
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return sorted(nights, key=lambda night: (night.run_id, night.night), reverse=True)


def open_nights(root: Path, of: tuple[str | None, str | None] | None = None) -> list[Night]:
    """Return the nights that wait for stars: of the last SHOWN of each data set and target, or of this pair alone."""
    seen: Counter[tuple[str | None, str | None]] = Counter()
    waiting = []
    for night in read_nights(root):
        kind = (night.dataset, night.target)
        seen[kind] += 1
        if night.is_open and seen[kind] <= SHOWN and of in (None, kind):
            waiting.append(night)
    return waiting


def keep(root: Path, night: Night) -> Night:
    """Write a night, with what an earlier run of the same night has kept: when it was first, what came in, was told."""
    with changing(root):
        if (earlier := stored(root, night.night)) is not None:
            first = {name: getattr(earlier, name) for name in KEPT}
            night = replace(night, **first, found={**night.found, **_turned_out(earlier, night)})
        write(root, night)
    return night


@contextmanager
def changing(root: Path) -> Iterator[None]:
    """Keep other processes from changing nights while the block does: a run of `score` and one of `etl-train` may meet.

    Not within another such block.
    """
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    with locked(root / FOLDER / LOCK):
        yield


def change(root: Path, night: Night, to: Callable[[Night], Night]) -> Night:
    """Change a night as it is by now, which another process may have changed; returns what it is then."""
    with changing(root):
        now = stored(root, night.night) or night
        changed = to(now)
        if changed != now:
            write(root, changed)
    return changed


def stored(root: Path, name: str) -> Night | None:
    """Return the night of this name as it is now, if there is one."""
    return next((one for one in read_nights(root) if one.night == name), None)


def write(root: Path, night: Night) -> None:
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    write_whole(root / FOLDER / f"{night.night}.json", json.dumps(asdict(night), indent=1), synced=True)


def _turned_out(earlier: Night, night: Night) -> dict[str, Any]:
    """Return what became of a night where it is known of more rows than the run that has scored it again knows."""
    known: dict[str, Any] = {}
    if _count(earlier, "realised_rows") > _count(night, "realised_rows"):
        known = {name: value for name, value in earlier.found.items() if name.startswith("realised_")}
        others = [warned for warned in night.warnings if warned["expectation"] != REALISED]
        known["warnings"] = [*others, *(one for one in earlier.warnings if one["expectation"] == REALISED)]
    if _count(earlier, "learned_rows") > _count(night, "learned_rows"):
        others = [line for line in night.found.get("told", ()) if LEARNED not in line]
        lines = [line for line in earlier.found.get("told", ()) if LEARNED in line]
        known |= {"learned_rows": earlier.found["learned_rows"], "told": [*others, *lines]}
    return known


def _count(night: Night, name: str) -> int:
    return int(night.found.get(name) or 0)
