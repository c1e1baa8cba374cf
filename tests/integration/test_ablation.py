"""The worth of groups on a real Ray session."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.errors import InputError
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.stages.evaluate.ablation import ablate
from tests.support.stage_runs import put, settings

CONFIG = settings("train.rounds=20").train


def put_splits(store: SnapshotStore, groups: dict[str, list[str]]) -> Snapshot:
    """Labels that follow `a` and, less, `b`; the test slice is damaged, for it must not be read."""
    tables = {}
    for seed, (name, n) in enumerate({"train": 900, "valid": 400}.items()):
        x = np.random.default_rng(seed).normal(size=(3, n)).astype(np.float32)
        columns = dict(zip("abc", x, strict=True))
        whole = pa.table({**columns, "label": (3 + x[0] + 0.3 * x[1]).astype(np.float32)})
        tables[name] = [whole.slice(0, 100), whole.slice(100)]
    tables["test"] = [pa.table({"nothing": [1]})]
    facts = {"features": ["a", "b", "c"], "groups": groups, "target": "rating", "linear": None}
    return put(store, "split", tables, facts=facts)


def test_groups_are_ranked_by_what_is_lost_without_them(ray_session: None, store: SnapshotStore) -> None:
    found = ablate(put_splits(store, {"much": ["a"], "less": ["b"], "noise": ["c"]}), CONFIG)
    assert (found["target"], found["metric"], found["rows"], found["features"]) == ("rating", "rmse", 400, 3)
    much, less, noise = found["groups"]
    assert (much["group"], less["group"], noise["group"]) == ("much", "less", "noise")
    assert much["low"] > less["high"] > less["low"] > 0.05
    assert much["difference"] == pytest.approx(much["without"] - found["loss"])
    assert noise["high"] < 0.05


def test_one_group_alone_cannot_be_left_out(store: SnapshotStore) -> None:
    with pytest.raises(InputError, match="the only group of features is much"):
        ablate(put_splits(store, {"much": ["a", "b", "c"]}), CONFIG)
