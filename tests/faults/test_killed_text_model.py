"""A rank of the text model killed between two steps: Ray Train starts the group again, to the same snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed_runs import run_script

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.nightly]
pytest.importorskip("torch", reason="the extra deep is not installed")

# Two runs in one Ray session, whose workers inherit the environment of this process: the second finds the marker of
# the first one's death and is left alone.
RUN = """
import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.stage_runs import made, put_reviews, settings
from tasks.core.storage.store import SnapshotStore
from tasks.engines import cluster
from tasks.stages.text_model.rows import SCORES
from tasks.stages.text_model.stage import text_model
from tasks.stages.tokenize import tokenize

if __name__ == "__main__":
    root = Path(sys.argv[1])
    rng = random.Random(3)
    words = {1: "awful broken waste", 2: "poor weak", 3: "fine average", 4: "good solid", 5: "superb lovely best"}
    rows = []
    for i in range(301):
        stars = rng.randint(1, 5)
        text = " ".join([rng.choice(words[stars].split()) for _ in range(4)] + ["thing"] * rng.randrange(20))
        day = datetime(2015, 1, 1, tzinfo=UTC) + timedelta(days=rng.randrange(300))
        rows.append({"rating": float(stars), "text": text, "timestamp": day, "total_votes": 6, "helpful_votes": stars})
    config = settings(
        "ray.logical_cpus=3", "text_model.enabled=true", "text_model.borders=[0.3,0.7]", "text_model.epochs=6",
        "text_model.shape.width=16", "text_model.shape.layers=1", "text_model.shape.hidden=16", "text_model.batch=16",
        "text_model.max_tokens=16", "text_model.checkpoint_steps=10", "text_model.learning_rate=0.01",
        "text_model.validation=0.1", "text_model.patience=20",
    )
    cluster.start(config.ray)
    runs = []
    for name in ("killed", "quiet"):
        store = SnapshotStore(root / name)
        reviews = put_reviews(store, rows[:200], [], rows[200:])
        tokens = made(store, tokenize, [reviews], config.tokenize).snapshot
        done = made(store, text_model, [reviews, tokens], config.text_model)
        table = done.snapshot.read()
        order = sorted(range(301), key=lambda i: rows[i]["timestamp"])
        late = [i for i in order if table["deep_stars"][i].as_py() is not None]
        off = [(table["deep_stars"][i].as_py() - rows[i]["rating"]) ** 2 for i in late]
        runs.append({
            "digest": done.snapshot.digest, "from": done.notes["resumed_from"], "blocks": done.snapshot.facts["blocks"],
            "rows": done.snapshot.rows(), "nulls": [table[name].null_count for name in SCORES],
            "first_scored": order.index(late[0]), "mse": sum(off) / len(off),
            "left": [p.name for p in (store.root / "text-model").rglob("*scratch*")],
            "files": sorted(e.name for e in done.snapshot.manifest.files),
        })
    (root / "said.json").write_text(json.dumps(runs))
    cluster.stop()
"""


def test_a_rank_killed_at_a_step_redoes_those_since_the_checkpoint_and_gives_the_same_snapshot(tmp_path: Path) -> None:
    killed, quiet = run_script(RUN, tmp_path, kill_at="text-model:step:27")
    assert killed.pop("from") == [20, 0]  # of the first block; the second began after the death
    assert quiet.pop("from") == [0, 0]
    assert killed == quiet
    assert quiet["rows"] == 301
    assert 85 <= quiet["first_scored"] <= 95  # three tenths, by time
    assert set(quiet["nulls"]) == {quiet["first_scored"]}
    assert quiet["mse"] < 1.0  # the mean's is 2
    assert [block["steps"] > 0 for block in quiet["blocks"]] == [True, True]
    assert quiet["left"] == []
    assert {"text_model.json", "text_model.safetensors", "curves/part-00000.parquet"} <= set(quiet["files"])
