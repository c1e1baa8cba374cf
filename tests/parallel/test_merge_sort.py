"""Merge sort: the rows that a stable sort of one table gives, in partitions, however they are spread."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import InputError
from tasks.engines.cluster import gather
from tasks.parallel import merge_sort, sort_order, sorted_runs
from tasks.parallel.merge_sort import sort_files, sort_in_process, sort_tables
from tasks.parallel.sort_order import Order

FLOATS = st.sampled_from([0.0, -0.0, 1.5, -1.5, float("nan"), float("inf"), float("-inf"), 5e-324])
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int64": (pa.int64(), st.sampled_from([-(2**63), -1, 0, 1, 2, 2**63 - 1])),
    "uint64": (pa.uint64(), st.sampled_from([0, 1, 2**63, 2**64 - 1])),
    "int8": (pa.int8(), st.integers(-3, 3)),
    "float64": (pa.float64(), FLOATS),
    "float32": (pa.float32(), st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")])),
    "bool": (pa.bool_(), st.booleans()),
    "time": (pa.timestamp("ns", "UTC"), st.integers(-2, 2)),
    "date": (pa.date32(), st.integers(-2, 2)),
    "string": (pa.string(), st.sampled_from(["", "a", "ab", "é", "\U0001f600", "\uffff"])),
    "binary": (pa.binary(), st.sampled_from([b"", b"\x00", b"\xff", b"a"])),
    "decimal": (pa.decimal128(9, 2), st.sampled_from([-1, 0, 1])),
    "null": (pa.null(), st.none()),
}


@pytest.fixture(autouse=True)
def _small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many runs and blocks of few rows."""
    monkeypatch.setattr(sorted_runs, "RUN_ROWS", 7)
    monkeypatch.setattr(sorted_runs, "BLOCK_ROWS", 8)
    monkeypatch.setattr(sorted_runs, "SAMPLE_STEP", 2)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[pa.Table], Order]:
    names = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3))
    rows = draw(st.integers(0, 60))
    columns = {}
    for i, name in enumerate(names):
        kind, values = KINDS[name]
        values = st.none() | values if draw(st.booleans()) else values
        columns[f"{name}{i}"] = pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind)
    keys = tuple(columns)
    if draw(st.booleans()):
        columns["row"] = pa.array(range(rows))
    if draw(st.booleans()):
        columns["text"] = pa.array([[str(i)] if i % 3 else None for i in range(rows)], pa.list_(pa.string()))
    table = pa.table(columns)
    edges = [0, *sorted(draw(st.lists(st.integers(0, rows), max_size=3))), rows]
    blocks = [table.slice(a, b - a) for a, b in pairwise(edges)]
    directions = tuple(draw(st.booleans()) for _ in keys)
    return blocks, Order(keys, directions, nulls_last=draw(st.booleans()))


def stable(table: pa.Table, order: Order) -> pa.Table:
    """Sort by Polars alone."""
    keys = pl.DataFrame(pl.from_arrow(table.select(order.by))).with_row_index("row of the table")
    options: dict[str, Any] = {"descending": list(order.descending), "nulls_last": order.nulls_last}
    return table.take(keys.sort(order.by, maintain_order=True, **options)["row of the table"].to_arrow())


def bits(table: pa.Table) -> list[Any]:
    """Return comparable rows, in which NaN equals itself and zeros of two signs differ."""
    return [repr(column.to_pylist()) for column in table.cast(table.schema).columns]


@settings(max_examples=150)
@given(given_tables=tables(), partitions=st.integers(1, 5))
def test_any_keys_in_any_blocks_as_one_stable_sort(given_tables: tuple[list[pa.Table], Order], partitions: int) -> None:
    blocks, order = given_tables
    expected = stable(pa.concat_tables(blocks), order)
    parts = sort_in_process(blocks, order, partitions)
    assert len(parts) == partitions
    assert bits(pa.concat_tables(parts)) == bits(expected)


@given(values=st.lists(st.integers(-3, 3), max_size=50))
def test_numbers_and_polars_agree_on_the_permutation(values: list[int]) -> None:
    keys = np.array(values, np.int64)
    np.testing.assert_array_equal(sort_order.stable_order(keys), np.argsort(keys, kind="stable"))


def test_a_dictionary_is_sorted_by_its_values() -> None:
    blocks = [pa.table({"k": pa.array(v).dictionary_encode()}) for v in (["b", "a", "b"], ["c", "a"])]
    parts = sort_in_process(blocks, Order(("k",)), 2)
    assert [v for part in parts for v in part["k"].to_pylist()] == ["a", "a", "b", "b", "c"]


@pytest.mark.parametrize("keys", [[5] * 400, [1, 2] * 200])
def test_equal_keys_are_cut_into_even_parts(keys: list[int]) -> None:
    rows = pa.table({"k": keys, "row": range(len(keys))})
    blocks = [rows.slice(i * 100, 100) for i in range(4)]
    parts = sort_in_process(blocks, Order(("k",)), 4)
    assert max(part.num_rows for part in parts) <= 100 + 4 * 7
    assert pa.concat_tables(parts)["row"].to_pylist() == sorted(range(400), key=lambda row: keys[row])


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (lambda: Order(("nothing",)), "no column 'nothing'"),
        (lambda: Order(("list",)), "has no order: list"),
        (lambda: Order(()), "0 keys"),
        (lambda: Order(("k", "k"), (True,)), "2 keys and 1 directions"),
    ],
)
def test_keys_that_have_no_order_are_refused(order: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        sort_in_process([pa.table({"k": [1], "list": [[1]]})], order(), 1)


def test_blocks_with_keys_of_other_types_are_refused() -> None:
    with pytest.raises(InputError, match=r"(?s)keys of other types: k: int64.*k: string"):
        sort_in_process([pa.table({"k": [1]}), pa.table({"k": ["1"]})], Order(("k",)), 1)


def dies_once(marker: Path, table: pa.Table) -> pa.Table:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return table


def test_on_ray_the_same_rows_and_a_lost_worker_changes_nothing(ray_session: None, tmp_path: Path) -> None:
    import ray

    rng = np.random.default_rng(3)
    blocks = [pa.table({"k": rng.integers(0, 50, 1000), "row": np.arange(1000)}) for _ in range(3)]
    order, refs = Order(("k",), (True,)), [ray.put(block) for block in blocks]
    parts = gather(sort_tables(refs, order, 4))
    assert pa.concat_tables(parts).equals(stable(pa.concat_tables(blocks), order))

    def die_in_the_cut(table: pa.Table) -> pa.Table:
        return dies_once(tmp_path / "cut", table)

    def die_in_the_merge(_partition: int, table: pa.Table) -> pa.Table:
        return dies_once(tmp_path / "merge", table)

    assert gather(merge_sort._sort(refs, order, 4, die_in_the_cut, die_in_the_merge)) == parts
    assert {file.name for file in tmp_path.iterdir()} == {"cut", "merge"}
    with pytest.raises(InputError, match="no column 'x'"):
        sort_tables(refs, Order(("x",)), 2)


def test_files_larger_than_a_task_become_sorted_files(ray_session: None, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    table = pa.table({"k": [None if v < 5 else f"{v:03}" for v in rng.integers(0, 300, 6000)], "row": range(6000)})
    files = [tmp_path / f"in-{i}.parquet" for i in range(2)]
    for i, file in enumerate(files):
        pq.write_table(table.slice(3000 * i, 3000), file, row_group_size=500)
    order = Order(("k",), nulls_last=False)
    written = sort_files(files, tmp_path / "out", order, memory_bytes=500_000)
    assert len(written) > 2
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [file.name for file in written]
    assert pa.concat_tables(pq.read_table(file) for file in written).equals(stable(table, order))
    with pytest.raises(InputError, match="row group 0 has"):
        sort_files(files, tmp_path / "out", order, memory_bytes=100)
