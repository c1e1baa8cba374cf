"""Snapshots in a bucket: downloads are verified, damage is an error, and gc removes only what nothing refers to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.core.errors import SnapshotCorrupt
from tasks.core.storage import remote_snapshots
from tasks.core.storage.bucket import Bucket
from tasks.core.storage.mirror import MirroredStore
from tests.support.s3_server import names
from tests.support.toy_snapshots import ABOUT, COMMITTED, MODEL, assert_whole, fill, interrupt_at, made

Machine = Callable[[str], MirroredStore]
_chunks = Bucket.chunks


@pytest.mark.parametrize("damage", ["gone", "shorter", "changed"])
def test_a_damaged_file_in_the_bucket_is_an_error_that_says_what_to_do_and_gc_removes_it(
    machine: Machine, bucket: Bucket, damage: str
) -> None:
    made(machine("a"))
    (name,) = (o.name for o in bucket.objects("") if o.name.endswith(MODEL))
    if damage == "gone":
        bucket.delete([name])
    else:
        bucket.put(name, b"tr" if damage == "shorter" else b"tr33s")
    store = machine("b")
    with pytest.raises(SnapshotCorrupt, match=MODEL) as caught:
        store.find("toy", "k")
    assert "snapshots/toy/k in s3://" in caught.value.where
    assert "raymill gc --damaged" in caught.value.fix
    assert list(store) == []

    assert list(store.there.leftovers({"k"}, full=False)) == []
    (left,) = store.there.leftovers({"k"}, full=True)
    assert left.why == "1 file(s) gone or changed"
    assert left.names[0] == "snapshots/toy/k/manifest.json"  # first: without it no reader trusts the rest
    bucket.delete(left.names)
    assert bucket.objects("") == []
    assert_whole(machine("a").find("toy", "k"))  # a machine with an intact copy uploads it again
    assert_whole(store.find("toy", "k"))


@pytest.mark.parametrize(
    ("change", "to"),
    [
        (f'"name": "{MODEL}"', '"name": "../../../x.bin"'),
        ('"stage": "toy"', '"stage": "other"'),
        ('"files"', '"f'),
    ],
)
def test_a_manifest_that_must_not_be_believed_writes_nothing(
    machine: Machine, bucket: Bucket, tmp_path: Path, change: str, to: str
) -> None:
    made(machine("a"))
    name = "snapshots/toy/k/manifest.json"
    text = (bucket.get(name) or b"").decode()
    assert change in text
    bucket.put(name, text.replace(change, to).encode())
    with pytest.raises(SnapshotCorrupt) as caught:
        machine("b").find("toy", "k")
    assert "gc --damaged" in caught.value.fix
    assert not [p for p in (tmp_path / "b").rglob("*") if p.is_file()]


def test_only_what_nothing_refers_to_and_is_a_day_old_is_left_over(
    machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("a")
    for key in ("needed", "old"):
        made(store, key)
    bucket.put("snapshots/toy/needed/attempt-dead/part-00000.parquet", b"half")
    bucket.put("snapshots/toy/never/attempt-dead/part-00000.parquet", b"half")
    assert list(store.there.leftovers({"needed"}, full=False)) == []
    monkeypatch.setattr(remote_snapshots, "SETTLED", timedelta(seconds=-60))
    left = {found.home: found for found in store.there.leftovers({"needed"}, full=False)}
    assert {home: found.why for home, found in left.items()} == {
        "snapshots/toy/needed/attempt-dead": "attempt without a manifest",
        "snapshots/toy/never/attempt-dead": "attempt without a manifest",
        "snapshots/toy/old": "superseded",
    }
    for found in left.values():
        bucket.delete(found.names)
    assert names(bucket) == {name.replace("/k/", "/needed/") for name in COMMITTED}


def test_lineage_goes_through_snapshots_that_are_not_here(machine: Machine) -> None:
    inputs = ({"name": "raw", "stage": "toy", "key": "raw", "digest": "d"},)
    made(machine("a"), "raw")
    a = machine("a")
    a.commit(fill(a.open_attempt("toy", "table")), **{**ABOUT, "inputs": inputs})
    assert machine("b").lineage({"table", "unknown"}) == {"table", "raw"}


def test_a_fetch_that_broke_off_goes_on_with_what_it_lacks(
    machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(machine("a"))
    store = machine("b")
    with monkeypatch.context() as patch:
        interrupt_at(patch, "fetched", 0)
        with pytest.raises(KeyboardInterrupt):
            store.find("toy", "k")
    assert list(store) == []
    asked = []

    def watched(self: Bucket, name: str) -> Iterator[bytes]:
        asked.append(name.rpartition("/")[2])
        return _chunks(self, name)

    monkeypatch.setattr(Bucket, "chunks", watched)
    assert_whole(store.find("toy", "k"))
    assert asked[0] == "manifest.json"
    assert "part-00000.parquet" not in asked
