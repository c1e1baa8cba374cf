"""A training worker killed between two rounds: Ray Train starts the group again, and the model is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed_runs import run_script

pytestmark = [pytest.mark.fault, pytest.mark.slow]

# Two runs in one Ray session, whose workers inherit the environment of this process: the second finds the marker of
# the first one's death and is left alone.
RUN = """
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.support.stage_runs import made, put, settings
from tasks.core.storage.store import SnapshotStore
from tasks.engines import cluster
from tasks.stages.train.stage import train

if __name__ == "__main__":
    root = Path(sys.argv[1])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(501, 2)).astype(np.float32)
    table = pa.table({"a": x[:, 0], "b": x[:, 1], "label": x[:, 0] + rng.normal(size=501).astype(np.float32)})
    slices = {"train": [table.slice(0, 401)], "valid": [table.slice(401)]}
    config = settings("ray.logical_cpus=2", "train.workers=2", "train.rounds=12", "train.checkpoint_rounds=5",
                      "train.params.subsample=0.8", "train.params.colsample_bytree=0.5")
    cluster.start(config.ray)
    runs = []
    for name in ("killed", "quiet"):
        store = SnapshotStore(root / name)
        splits = put(store, "split", slices, facts={"features": ["a", "b"], "target": "rating"})
        done = made(store, train, [splits], config.train)
        runs.append({"digest": done.snapshot.digest, "from": done.notes["resumed_from_round"]})
    (root / "said.json").write_text(json.dumps(runs))
    cluster.stop()
"""


def test_a_worker_killed_at_a_round_redoes_those_since_the_checkpoint_and_gives_the_same_model(tmp_path: Path) -> None:
    killed, quiet = run_script(RUN, tmp_path, kill_at="train:round:7")
    assert (killed["from"], quiet["from"]) == (5, 0)
    assert killed["digest"] == quiet["digest"]
