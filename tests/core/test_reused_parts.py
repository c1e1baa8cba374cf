"""Parts taken over from an earlier snapshot, and what becomes of one that is damaged."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore

NOTHING = {"inputs": (), "config": {}, "config_digest": "", "code": {}, "deterministic": True, "seconds": {}}


def first(store: SnapshotStore) -> Snapshot:
    out = store.open_attempt("toy", "one")
    table = pa.table({"a": [1, 2, 3]})
    out.part("p", [out.sink.write_table(part_name(0, name), table) for name in ("", "keys")], about=7)
    return store.commit(out, committed_at="", **NOTHING)


def test_a_part_is_taken_over_under_its_new_number(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    earlier = first(store)
    out = store.open_attempt("toy", "two")
    record = out.reuse_part("p", 5)
    assert record is not None
    assert (record.about, record.files) == (7, ("part-00005.parquet", "keys/part-00005.parquet"))
    later = store.commit(out, committed_at="", **NOTHING)
    assert later.read().equals(earlier.read())
    assert out.reuse_part("another", 0) is None


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_a_damaged_part_is_not_taken_over_and_making_it_again_leaves_the_committed_files_alone(
    tmp_path: Path, harm: str
) -> None:
    store = SnapshotStore(tmp_path)
    earlier = first(store)
    main, keys = earlier.files()[0], earlier.files("keys")[0]
    before = main.read_bytes()
    keys.unlink() if harm == "gone" else keys.write_bytes(b"cut")
    out = store.open_attempt("toy", "two")
    assert out.reuse_part("p", 0) is None
    out.write_table(part_name(0), pa.table({"a": [9]}))
    out.write_table(part_name(0, "keys"), pa.table({"a": [9]}))
    assert main.read_bytes() == before
    assert harm == "gone" or keys.read_bytes() == b"cut"
