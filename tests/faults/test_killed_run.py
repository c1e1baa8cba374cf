"""The whole pipeline, its process killed three times on the way: it goes on where it was, to the same digests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.core.settings import PROJECT
from tasks.core.snapshots import SnapshotStore, damaged_files
from tasks.synth import synthesize

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(1800)]

ORDER = ["ingest", "clean", "count-words", "tokenize", "features", "split", "train", "tune", "refit", "evaluate"]
KILLS = ("clean:before-manifest", "features:after-run", "tune:after-validate")

Rows = dict[str, dict[str, Any]]


def start(sample: Path, root: Path, kill_at: str = "") -> subprocess.CompletedProcess[str]:
    settings = [
        f"storage.root={root}",
        f"tracking.uri=sqlite:///{root}/mlflow.db",
        "ray.object_store_mb=256",
        "tune.trials=2",
        "tune.concurrent=1",  # trials end in the order they began in: the search too can be compared
        "tune.max_rounds=20",
        "train.rounds=10",
        "features.text_score.dimensions=4096",
        "features.text_score.blocks=3",
    ]
    options = [f"--set={s}" for s in settings]
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "--input", str(sample), "--json", str(root / "run.json"), *options],
        cwd=PROJECT,
        env={**os.environ, "RAYMILL_KILL_AT": kill_at},
        capture_output=True,
        text=True,
        timeout=600,
    )


def finish(sample: Path, root: Path) -> Rows:
    done = start(sample, root)
    assert done.returncode == 0, done.stdout + done.stderr
    return {row["stage"]: row for row in json.loads((root / "run.json").read_text())["stages"]}


def kill(sample: Path, root: Path, at: str) -> None:
    killed = start(sample, root, kill_at=at)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr


def digests(rows: Rows) -> dict[str, str]:
    return {name: rows[name]["digest"] for name in ORDER}


def strangers(before: set[int]) -> list[str]:
    """Command lines of processes that were started since and have no parent left."""
    lines = []
    for process in psutil.process_iter(["pid", "ppid", "cmdline", "username"]):
        if process.info["pid"] not in before and process.info["ppid"] == 1:
            lines.append(" ".join(process.info["cmdline"] or [])[:200])
    return lines


def test_a_run_killed_three_times_ends_as_an_undisturbed_one_and_does_nothing_twice(tmp_path: Path) -> None:
    sample, calm, stormy = tmp_path / "sample", tmp_path / "calm", tmp_path / "stormy"
    synthesize(3000, 7, sample)
    for root in (calm, stormy):
        root.mkdir()

    undisturbed = finish(sample, calm)
    assert not any(undisturbed[name]["reused"] for name in ORDER)

    store = SnapshotStore(stormy / "snapshots")
    for at in KILLS:
        kill(sample, stormy, at)
        stage = at.partition(":")[0]
        assert {s.stage for s in store} == set(ORDER[: ORDER.index(stage)])

    rows = finish(sample, stormy)
    assert [name for name in ORDER if rows[name]["reused"]] == ORDER[: ORDER.index("tune")]
    assert rows["tune"]["notes"]["resumed_trials"] == 2
    assert digests(rows) == digests(undisturbed)
    for snapshot in store:
        assert {p.name for p in Path(snapshot.folder).iterdir()} == {"manifest.json", snapshot.manifest.attempt}
        assert damaged_files(Path(snapshot.folder), snapshot.manifest, full=True) == []
