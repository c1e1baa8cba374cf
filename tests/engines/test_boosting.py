"""Rows to matrices: none dropped, none twice, whatever the number of workers; what cannot be learned from is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.snapshot_files import FileSink
from tasks.engines import boosting, quantile_matrices
from tasks.engines.feature_files import batches, slabs
from tasks.engines.feature_rows import Rows, read_slices

FEATURES = ["a", "b"]


def write(folder: Path, lengths: list[int]) -> list[Path]:
    """Files of these lengths; feature `a` is the row's number over all files, `b` is null in every third."""
    start, files = 0, []
    for i, n in enumerate(lengths):
        a = np.arange(start, start + n, dtype=np.float32)
        b = pa.array([None if row % 3 == 0 else float(row) for row in range(start, start + n)], pa.float32())
        table = pa.table({"b": b, "label": a % 5 + 1, "a": a})
        FileSink(str(folder)).write_table(f"{i}.parquet", table)
        files.append(folder / f"{i}.parquet")
        start += n
    return files


def walked(rows: Rows) -> tuple[Any, Any]:
    parts = list(rows.walk())
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


@pytest.mark.parametrize("lengths", [[1], [7], [3, 5, 4], [1, 1, 1], [11, 2], [0, 5, 0]])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_each_row_goes_to_one_rank_in_equal_runs(tmp_path: Path, lengths: list[int], world_size: int) -> None:
    files = write(tmp_path, lengths)
    shares = [list(batches(files, FEATURES, rank, world_size)) for rank in range(world_size)]
    rows = [np.concatenate([x[:, 0] for x, _ in share]) if share else np.zeros(0) for share in shares]
    assert np.concatenate(rows).tolist() == list(range(sum(lengths)))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_a_border_between_ranks_falls_inside_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.core.snapshot_files.ROW_GROUP_ROWS", 4)
    files = write(tmp_path, [10, 9])
    ranks = [slabs(files, rank, 3) for rank in range(3)]
    assert [[(s.file.stem, s.group, s.start, s.stop) for s in rank] for rank in ranks] == [
        [("0", 0, 0, 4), ("0", 1, 0, 2)],
        [("0", 1, 2, 4), ("0", 2, 0, 2), ("1", 0, 0, 2)],
        [("1", 0, 2, 4), ("1", 1, 0, 4), ("1", 2, 0, 1)],
    ]
    rows = [walked(Rows(rank, FEATURES))[0][:, 0] for rank in ranks]
    assert np.concatenate(rows).tolist() == list(range(19))


@pytest.mark.parametrize(("most", "every"), [(1, 19), (4, 5), (9, 3), (10, 2), (19, 1), (100, 1)])
def test_a_sample_is_evenly_spread_over_row_groups_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, every: int
) -> None:
    monkeypatch.setattr("tasks.core.snapshot_files.ROW_GROUP_ROWS", 4)
    problem, (rows, _) = read_slices([write(tmp_path, [10, 0, 9]), []], FEATURES, most)
    assert problem is None
    assert np.concatenate([x[:, 0] for x, _ in rows]).tolist() == list(range(0, 19, every))
    assert np.concatenate([y for _, y in rows]).tolist() == [row % 5 + 1 for row in range(0, 19, every)]


def test_null_is_nan_and_labels_stay_with_their_rows(tmp_path: Path) -> None:
    ((x, y),) = batches(write(tmp_path, [6]), FEATURES)
    np.testing.assert_array_equal(x[:, 0] % 5 + 1, y)
    assert np.isnan(x[:, 1]).tolist() == [True, False, False, True, False, False]
    assert (x.dtype, y.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("external", [False, True])
def test_rows_that_stream_in_make_the_matrix_of_all_rows_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    import xgboost as xgb

    monkeypatch.setattr("tasks.core.snapshot_files.ROW_GROUP_ROWS", 50)
    files = write(tmp_path, [130, 1, 70])
    x, y = walked(Rows(slabs(files), FEATURES))
    whole = xgb.QuantileDMatrix(x, y, feature_names=FEATURES, max_bin=16)
    cache = tmp_path / "cache" / "rows" if external else None
    (tmp_path / "cache").mkdir()
    ours = quantile_matrices.matrix(Rows(slabs(files), FEATURES), max_bin=16, cache=cache)
    assert (ours.num_row(), ours.num_col(), ours.feature_names) == (201, 2, FEATURES)
    params = {"max_depth": 3, "max_bin": 16, "nthread": 1}
    models = [xgb.train(params, m, 5) for m in (ours, whole)]
    np.testing.assert_allclose(*[m.predict(xgb.DMatrix(x, feature_names=FEATURES)) for m in models], atol=0.25)
    assert bool(list((tmp_path / "cache").iterdir())) == external


@pytest.mark.parametrize("external", [False, True])
def test_a_rank_without_rows_still_has_a_matrix(tmp_path: Path, external: bool) -> None:
    full = quantile_matrices.matrix(Rows(slabs(write(tmp_path, [9])), FEATURES))
    cache = tmp_path / "none" if external else None
    empty = quantile_matrices.matrix(Rows([], FEATURES), ref=full, cache=cache)
    assert (full.num_row(), empty.num_row(), empty.num_col()) == (9, 0, 2)
    assert empty.feature_names == FEATURES


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("b", np.inf, "the feature 'b' holds an infinite value"),
        ("a", -np.inf, "the feature 'a' holds an infinite value"),
        ("label", np.nan, "the column 'label' holds a value that is not a number"),
    ],
)
def test_what_cannot_be_learned_from_is_named_with_its_file_and_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, value: float, says: str
) -> None:
    monkeypatch.setattr("tasks.core.snapshot_files.ROW_GROUP_ROWS", 4)
    columns = {name: np.ones(10, np.float32) for name in (*FEATURES, "label")}
    columns[column][6] = value
    FileSink(str(tmp_path)).write_table("bad.parquet", pa.table(columns))
    files = [*write(tmp_path, [5]), tmp_path / "bad.parquet"]
    rows = Rows(slabs(files), FEATURES)
    # The other ranks wait for this one's sketch, so a matrix is made all the same, of the row groups before.
    assert quantile_matrices.matrix(rows).num_row() == 9
    assert rows.problem is not None
    assert rows.problem.what == f"{says} (row 2 of row group 1)"
    assert rows.problem.where == str(tmp_path / "bad.parquet")


def test_a_feature_that_is_never_known_is_never_split_on(tmp_path: Path) -> None:
    import xgboost as xgb

    n = 60
    table = pa.table({"a": np.arange(n, dtype=np.float32), "b": pa.nulls(n, pa.float32()), "label": np.arange(n) / n})
    FileSink(str(tmp_path)).write_table(
        "t.parquet", table.cast(pa.schema({c: pa.float32() for c in table.column_names}))
    )
    made = quantile_matrices.matrix(Rows(slabs([tmp_path / "t.parquet"]), FEATURES))
    model = xgb.train({"max_depth": 2}, made, 3)
    assert set(model.get_score()) == {"a"}


def test_a_model_refuses_rows_with_other_features(tmp_path: Path) -> None:
    import xgboost as xgb

    matrix = quantile_matrices.quantile_matrix(list(batches(write(tmp_path, [9]), FEATURES)), FEATURES)
    data = bytes(xgb.train({"max_depth": 1}, matrix, 1).save_raw("ubj"))
    x = np.zeros((2, 2), dtype=np.float32)
    assert boosting.predict(boosting.load_model(data), x, FEATURES).shape == (2,)
    with pytest.raises(ValueError, match="feature"):
        boosting.predict(boosting.load_model(data), x, FEATURES[::-1])
