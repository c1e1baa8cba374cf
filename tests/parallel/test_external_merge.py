"""External merge: what was spilled comes back merged and in key order, and leaves no file behind."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import RunError
from tasks.parallel import external_merge
from tasks.parallel.external_merge import ExternalMerge, SpillFile

TABLE = pa.table({"token": ["a", "b"], "count": [1, 2]})


def shrink(patch: pytest.MonkeyPatch, fan_in: int = 3) -> None:
    """Limits so small that some rows pass them."""
    patch.setattr(external_merge, "FRESH_BYTES", 60)
    patch.setattr(external_merge, "FRESH_TABLES", 3)
    patch.setattr(external_merge, "BATCH_BYTES", 40)
    patch.setattr(external_merge, "FAN_IN", fan_in)


rows = st.lists(st.tuples(st.text("aé日\U0001f600\x00", max_size=3), st.integers(-2, 2)), max_size=30)


@given(tables=st.lists(rows, max_size=12), spilled=st.sets(st.integers(0, 11)), fan_in=st.integers(2, 4))
def test_what_was_spilled_is_merged_in_the_order_of_all_key_columns(
    tables: list[list[tuple[str, int]]], spilled: set[int], fan_in: int
) -> None:
    def total(records: pa.Table) -> pa.Table:
        return records.group_by(["s", "i"]).aggregate([("n", "sum")]).rename_columns(["s", "i", "n"])

    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, fan_in)
        merge = ExternalMerge(("s", "i"), total, SpillFile())
        for number, table in enumerate(tables):
            merge.add(pa.table({"s": [s for s, _ in table], "i": [i for _, i in table], "n": [1] * len(table)}, KEYED))
            if number in spilled:
                merge.spill()
                assert merge.nbytes == 0
        got = [(r["s"], r["i"], r["n"]) for batch in merge.sorted() for r in batch.to_pylist()]
    assert got == [(s, i, n) for (s, i), n in sorted(Counter(r for table in tables for r in table).items())]


KEYED = pa.schema([("s", pa.string()), ("i", pa.int32()), ("n", pa.int64())])


@given(tables=st.lists(rows, max_size=12), spilled=st.sets(st.integers(0, 11)))
def test_all_rows_of_a_key_are_in_one_batch_where_combine_leaves_several(
    tables: list[list[tuple[str, int]]], spilled: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        merge = ExternalMerge(("s",), lambda records: records, SpillFile())
        for number, table in enumerate(tables):
            merge.add(pa.table({"s": [s for s, _ in table], "i": [i for _, i in table]}, schema=KEYED_ONCE))
            if number in spilled:
                merge.spill()
        got = [batch.to_pylist() for batch in merge.sorted()]
    assert sorted((r["s"], r["i"]) for batch in got for r in batch) == sorted(r for table in tables for r in table)
    keys = [s for batch in got for s in sorted({r["s"] for r in batch})]
    assert keys == sorted({s for table in tables for s, _ in table})


KEYED_ONCE = pa.schema([("s", pa.string()), ("i", pa.int32())])


def test_what_is_spilled_has_no_name_that_could_be_left_behind(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = SpillFile()
    run = file.write([TABLE, TABLE])
    assert file.size > 0
    assert list(tmp_path.iterdir()) == []
    assert list(run) == [TABLE, TABLE]


def test_a_full_disk_is_an_error_that_says_which_disk(tmp_path: Path, monkeypatch: Any) -> None:
    class Full:
        def seek(self, offset: int) -> None: ...
        def write(self, data: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(RunError, match="No space left on device") as caught:
        SpillFile().write([TABLE])
    assert caught.value.where == str(tmp_path)
    assert "TMPDIR" in caught.value.fix
