"""The whole pipeline, its process killed three times on the way: it goes on where it was, to the same digests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tasks.core.sections import PROJECT
from tasks.core.storage.store import SnapshotStore, damaged_files
from tasks.sources.synth import synthesize

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(1800)]

LIMIT_S = 400

# Stage: those that are done before it begins.
UPSTREAM = {
    "ingest": set[str](),
    "clean": {"ingest"},
    "describe": {"ingest", "clean"},
    "near-duplicates": {"ingest", "clean", "describe"},
}
UPSTREAM["count-words"] = UPSTREAM["tokenize"] = {*UPSTREAM["near-duplicates"], "near-duplicates"}
UPSTREAM["language-model"] = {*UPSTREAM["tokenize"], "count-words", "tokenize"}
UPSTREAM["features"] = {*UPSTREAM["language-model"], "language-model"}
UPSTREAM["split"] = {*UPSTREAM["features"], "features"}
UPSTREAM["train"] = UPSTREAM["tune"] = {*UPSTREAM["split"], "split"}
UPSTREAM["refit"] = {*UPSTREAM["tune"], "tune"}
UPSTREAM["evaluate"] = {*UPSTREAM["refit"], "refit", "train"}
KILLS = ("clean:before-manifest", "features:after-run", "tune:after-validate")

Rows = dict[str, dict[str, Any]]


def start(sample: Path, root: Path, kill_at: str = "") -> tuple[int, str]:
    """Run the pipeline; returns its exit status and what it said."""
    settings = [
        f"storage.root={root}",
        f"tracking.uri=sqlite:///{root}/mlflow.db",
        "ray.object_store_mb=256",
        "tune.trials=2",
        "tune.concurrent=1",  # trials end in the order they began in: the search too can be compared
        "tune.max_rounds=20",
        "train.rounds=10",
        "features.text_score.dimensions=4096",
        "features.text_score.borders=[0.3,0.6]",
    ]
    command = [sys.executable, "-m", "flows.cli.main", "run", "--input", str(sample), "--json", str(root / "run.json")]
    # Into a file: Prefect's temporary server outlives a killed process, and would hold a pipe open.
    with (root / "said.txt").open("w+") as said:
        process = subprocess.Popen(
            [*command, *(f"--set={s}" for s in settings)],
            cwd=PROJECT,
            env={**os.environ, "RAYMILL_KILL_AT": kill_at},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        return status, said.read()


def finish(sample: Path, root: Path) -> Rows:
    status, said = start(sample, root)
    assert status == 0, said
    return {row["stage"]: row for row in json.loads((root / "run.json").read_text())["stages"]}


def test_a_run_killed_three_times_ends_as_an_undisturbed_one_and_does_nothing_twice(tmp_path: Path) -> None:
    sample, calm, stormy = tmp_path / "sample", tmp_path / "calm", tmp_path / "stormy"
    synthesize(3000, 7, sample)
    for root in (calm, stormy):
        root.mkdir()

    undisturbed = finish(sample, calm)
    assert not any(undisturbed[name]["reused"] for name in UPSTREAM)

    store = SnapshotStore(stormy / "snapshots")
    for at in KILLS:
        status, said = start(sample, stormy, kill_at=at)
        assert status == -signal.SIGKILL, said
        killed = at.partition(":")[0]
        committed = {s.stage for s in store}
        assert committed - {"train"} == UPSTREAM[killed]  # train runs beside tune, and may have ended

    rows = finish(sample, stormy)
    assert {name for name in UPSTREAM if rows[name]["reused"]} == committed
    assert rows["tune"]["notes"]["resumed_trials"] == 2
    assert {n: rows[n]["digest"] for n in UPSTREAM} == {n: undisturbed[n]["digest"] for n in UPSTREAM}
    assert_clean(store)


def assert_clean(store: SnapshotStore) -> None:
    """At each key there is one committed attempt, whole, its manifest, and nothing else."""
    snapshots = list(store)
    assert {s.stage for s in snapshots} == {*UPSTREAM, "report"}
    for snapshot in snapshots:
        names = {p.name for p in Path(snapshot.folder).iterdir()}
        assert names == {"manifest.json", snapshot.manifest.attempt}
        assert damaged_files(Path(snapshot.folder), snapshot.manifest, full=True) == []
