"""`raymill gc` removes what scoring runs have left, and keeps what the last ones made and the models that made it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from flows.cli.scoring_leftovers import DAY_S, plan_gc_of_scoring
from flows.run.record import RunRecord, StageRow
from flows.run.watched_nights import Night, write
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.settings import load_settings
from tests.support import toy_snapshots
from tests.support.command import raymill


def scored(root: Path, key: str, version: str) -> Snapshot:
    out = toy_snapshots.fill(SnapshotStore(root / "snapshots").open_attempt("score", key))
    out.fact(model="toy", version=version)
    snapshot = SnapshotStore(root / "snapshots").commit(out, **toy_snapshots.ABOUT)
    record = RunRecord(run_id=f"2026010{version}", started=f"2026-01-0{version}T00:00:00+00:00")
    record = replace(record, stages=[StageRow("score", key=key)])
    (root / "runs").mkdir(exist_ok=True)
    (root / "runs" / f"{record.run_id}.json").write_text(json.dumps(record.to_json()))
    return snapshot


def test_old_snapshots_of_scoring_and_the_models_of_no_other_are_removed(tmp_path: Path) -> None:
    words = [f"storage.root={tmp_path}", "storage.keep_runs=1", f"tracking.uri=sqlite:///{tmp_path}/none.db"]
    settings = load_settings(overrides=words)
    assert plan_gc_of_scoring(settings) == []  # nothing was ever scored
    root = tmp_path / "score"
    old, new = scored(root, "a", "1"), scored(root, "b", "2")
    earlier = tmp_path / "models" / "toy-2-r2"  # where `raymill serve` once kept its own
    copies = [root / "models" / name for name in ("toy-1-r1", "toy-2-r2", "toy-3-r3", "toy-21-r4", "toy-2-x.draft")]
    for folder in (*copies, earlier):
        folder.mkdir(parents=True)
        (folder / "model.ubj").write_bytes(b"trees")
        (folder / "about.json").write_text("{}")
        used = (folder.stat().st_mtime - 2 * DAY_S,) * 2
        if folder.name != "toy-3-r3":  # used just now, maybe by a run that has not ended
            os.utime(folder, used)
    assert {Path(r.path) for r in plan_gc_of_scoring(settings)} == {
        Path(old.folder), *(root / "models" / name for name in ("toy-1-r1", "toy-21-r4", "toy-2-x.draft")), earlier,
    }  # fmt: skip
    done = raymill("gc", *(word for given in words for word in ("--set", given)))
    assert "5 removed" in done.stdout
    assert sorted(folder.name for folder in (root / "models").iterdir()) == ["toy-2-r2", "toy-3-r3"]
    toy_snapshots.assert_whole(new)


def test_predictions_whose_stars_have_not_come_in_yet_are_kept(tmp_path: Path) -> None:
    words = [f"storage.root={tmp_path}", "storage.keep_runs=1", f"tracking.uri=sqlite:///{tmp_path}/none.db"]
    root = tmp_path / "score"
    waiting, settled, _ = (scored(root, key, version) for key, version in (("a", "1"), ("b", "2"), ("c", "3")))
    for snapshot, rows in ((waiting, 3), (settled, 9)):
        found = {"unseen_from": "2026-01-01T00:00:00+00:00", "realised_rows": rows}
        write(root, Night(snapshot.key, predictions=snapshot.key, rows=9, found=found))
    (removal,) = plan_gc_of_scoring(load_settings(overrides=words))
    assert Path(removal.path) == Path(settled.folder)
