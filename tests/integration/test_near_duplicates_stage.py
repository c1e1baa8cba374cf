"""Near-duplicates on a real Ray session, validated as in a run, and what the split records of them."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import pytest

from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.engines.expectations import Validators
from tasks.stages.near_duplicates import NEAR_DUPLICATES, near_duplicates
from tasks.stages.split import SLICES, split
from tests.support.stage_runs import made, put, put_features, put_reviews, settings, validated

pytestmark = pytest.mark.usefixtures("ray_session")
DAY = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)


def said(seed: int, words: int = 40) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(500)}" for _ in range(words))


def rows(count: int = 400) -> list[dict[str, Any]]:
    """A review a day. Days 10 and 390 say the same; so, nearly, do 20, 330 and 395; and 391 and 399."""
    texts = {i: said(i) for i in range(count)}
    texts[390] = texts[10]
    texts[330], texts[395] = f"{texts[20]} indeed", f"well {texts[20]}"
    texts[399] = texts[391].upper()
    texts[100] = texts[200] = "too short to tell"
    return [{"timestamp": DAY + dt.timedelta(days=i), "text": t} for i, t in texts.items()]


GROUPS = {"R10": ["R10", "R390"], "R20": ["R20", "R330", "R395"], "R391": ["R391", "R399"]}


def groups_of(snapshot: Snapshot) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for row in snapshot.read().to_pylist():
        groups.setdefault(row["group"], []).append(row["review_id"])
    return groups


def test_groups_across_files_are_found_with_their_times(store: SnapshotStore) -> None:
    told = rows()
    reviews = put_reviews(store, told[:15], told[15:16], told[16:300], told[300:])
    done = made(store, near_duplicates, [reviews], settings().near_duplicates).snapshot
    assert groups_of(done) == GROUPS
    found = done.read()
    assert found.schema.names == NEAR_DUPLICATES.names
    for row in found.to_pylist():
        assert row["timestamp"] == told[int(row["review_id"][1:])]["timestamp"]
    one = put(store, "clean-in-one", {"": [reviews.read()]})
    again = made(store, near_duplicates, [one], settings("near_duplicates.buckets=1").near_duplicates).snapshot
    assert again.digest == done.digest


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_no_near_duplicate_is_a_valid_and_committed_answer(
    store: SnapshotStore, validators: Validators, enabled: str
) -> None:
    texts = [said(1), said(2 if enabled == "true" else 1)]
    reviews = put_reviews(store, [{"timestamp": DAY, "text": t} for t in texts])
    config = settings(f"near_duplicates.enabled={enabled}").near_duplicates
    done = validated(store, near_duplicates, [reviews], config, validators)
    assert done.rows() == 0
    assert done.read().schema.names == NEAR_DUPLICATES.names
    features = put_features(store, [{"timestamp": DAY + dt.timedelta(days=i)} for i in range(400)])
    cut = validated(store, split, [features, done], settings().split, validators)
    assert cut.rows("near_duplicates") == 0
    assert cut.facts["near_duplicates"] == {"groups": 0, "valid": 0, "test": 0}


@pytest.mark.parametrize("repeats", ["keep", "leave_out"])
def test_split_keeps_near_duplicates_on_one_side_or_names_them(store: SnapshotStore, repeats: str) -> None:
    told = rows()
    reviews = put_reviews(store, told)
    alike = made(store, near_duplicates, [reviews], settings().near_duplicates).snapshot
    days = [{"timestamp": row["timestamp"]} for row in told]
    table = put_features(store, days[:250], days[250:])
    done = made(store, split, [table, alike], settings(f"split.repeats={repeats}").split).snapshot
    later = [("R330", "valid", "R20"), ("R390", "test", "R10"), ("R395", "test", "R20")]
    named = [(r["review_id"], r["slice"], r["group"]) for r in done.read("near_duplicates").to_pylist()]
    left_out = [(r["review_id"], r["slice"], r["reason"]) for r in done.read("left_out").to_pylist()]
    ids = [i for name in SLICES for i in done.read(name)["review_id"].to_pylist()]
    if repeats == "keep":
        assert (named, left_out) == (later, [])
        assert ids == [f"R{i}" for i in range(400)]
        assert done.facts["near_duplicates"] == {"groups": 3, "valid": 1, "test": 2}
    else:
        assert (named, left_out) == ([], [(review, name, "near_repeat") for review, name, _ in later])
        assert ids == [f"R{i}" for i in range(400) if i not in (330, 390, 395)]
        assert done.facts["near_duplicates"] == {"groups": 3, "valid": 0, "test": 0}
        assert done.facts["left_out"] == {"near_repeat": {"valid": 1, "test": 2}}
