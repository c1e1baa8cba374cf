"""Find the snapshots and runs that a user names: STAGE@DIGEST, a digest or key, a run's id, or STAGE@RUN.

Digests, keys and ids may be shortened to their first characters, as long as only one begins with them.
"""

from __future__ import annotations

from flows.run.record import RunRecord
from tasks.core.errors import UserError
from tasks.core.snapshots import Manifest
from tasks.core.storage.store import SnapshotStore

SHORTEST = 4
FIX = "raymill snapshots lists the snapshots, data/runs has the runs"


class Names:
    """The snapshots and runs of a store."""

    def __init__(self, store: SnapshotStore) -> None:
        self.manifests = store.manifests()
        self.runs = [RunRecord.from_json(stored) for stored, _ in store.records()]  # the newest first

    def find(self, name: str) -> Manifest | RunRecord:
        """Return what a name stands for. Raises UserError if that is nothing, or more than one thing."""
        stage, _, start = name.rpartition("@")
        if len(start) < SHORTEST:
            raise UserError(f"give at least {SHORTEST} characters of a digest or a run's id", where=name, fix=FIX)
        runs = [run for run in self.runs if run.run_id.startswith(start)]
        if exact := [run for run in runs if run.run_id == start]:
            return self._of_run(exact[0], stage, name)
        by_age = sorted(self.manifests.values(), key=lambda manifest: manifest.committed_at)
        found = {  # of equal content made twice the newest stays
            (m.stage, m.digest): m
            for m in by_age
            if stage in ("", m.stage) and (m.digest.startswith(start) or m.key.startswith(start))
        }
        if len(found) + len(runs) > 1:
            all_names = [f"{m.stage}@{m.digest[:12]}" for m in found.values()] + [run.run_id for run in runs]
            raise UserError(f"this may be {', '.join(all_names[:5])}", where=name, fix="give more characters")
        if runs:
            return self._of_run(runs[0], stage, name)
        if not found:
            raise UserError("there is no such snapshot and no such run", where=name, fix=FIX)
        return next(iter(found.values()))

    def last_two(self) -> tuple[RunRecord, RunRecord]:
        """Return the newest run, and before it the newest other one of its data set and target, or of any."""
        if len(self.runs) < 2:
            raise UserError(f"there are {len(self.runs)} runs, and no two to compare", fix="raymill run makes one")
        newest, *others = self.runs
        own = newest.dataset, newest.target
        return next((run for run in others if (run.dataset, run.target) == own), others[0]), newest

    def _of_run(self, run: RunRecord, stage: str, name: str) -> Manifest | RunRecord:
        if not stage:
            return run
        row = run.row(stage)
        if row is None or not row.key:
            raise UserError(f"the run has no snapshot of {stage}", where=name, fix=f"stages: {_stages(run)}")
        if row.key not in self.manifests:
            raise UserError(
                "this snapshot was removed", where=name, fix="storage.keep_runs sets how many runs raymill gc spares"
            )
        return self.manifests[row.key]


def _stages(run: RunRecord) -> str:
    return ", ".join(row.stage for row in run.stages if row.key) or "none"
