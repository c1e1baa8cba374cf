"""A task of tokenize, and actors of count-words, killed at a set batch: each is replaced; the digest is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed_runs import run_script

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.nightly]

# Three runs, each in a Ray session of its own: workers inherit the environment of the process that starts it.
RUN = """
import datetime as dt
import json
import sys
from pathlib import Path

from tests.support.stage_runs import made, put_reviews, settings
from tasks.core.storage.store import SnapshotStore
from tasks.stages.count_words import count_words
from tasks.engines import cluster
from tasks.stages.tokenize import tokenize

if __name__ == "__main__":
    root, name = Path(sys.argv[1]), sys.argv[2]
    store, config = SnapshotStore(root / "store"), settings("ray.logical_cpus=2", "count_words.ngrams=2")
    begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    parts = [
        [
            {"timestamp": begin + dt.timedelta(hours=97 * i % 50), "rating": float(1 + i % 5)}
            | {"text": " ".join(f"w{(i * k) % 37}" for k in range(1, 30)), "title": "the lamp"}
            for i in range(part, part + 40)
        ]
        for part in range(0, 240, 40)
    ]
    reviews = put_reviews(store, *parts)
    cluster.start(config.ray)
    stage = {"tokenize": tokenize, "count-words": count_words}[name]
    done = made(store, stage, [reviews], getattr(config, name.replace("-", "_")))
    (root / "said.json").write_text(json.dumps({"digest": done.snapshot.digest, "rows": done.snapshot.rows()}))
    cluster.stop()
"""


@pytest.mark.parametrize(
    ("stage", "points"),
    [
        ("tokenize", ["tokenize:encoded:4"]),
        ("count-words", ["mapreduce:mapped:3", "mapreduce:taken:4", "mapreduce:reduced:1"]),
    ],
)
def test_a_killed_worker_changes_nothing(tmp_path: Path, stage: str, points: list[str]) -> None:
    undisturbed = run_script(RUN, tmp_path / "quiet", stage)
    assert undisturbed["rows"] > 0
    for number, point in enumerate(points):
        assert run_script(RUN, tmp_path / f"killed-{number}", stage, kill_at=point) == undisturbed, point
