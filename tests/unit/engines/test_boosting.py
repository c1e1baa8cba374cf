"""Rows to matrices: none dropped, none twice, whatever the number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.snapshots import FileSink
from tasks.engines import boosting


def write(folder: Path, lengths: list[int]) -> list[Path]:
    """Files of these lengths; feature `a` is the row's number over all files, `b` is null in every third."""
    start, files = 0, []
    for i, n in enumerate(lengths):
        a = np.arange(start, start + n, dtype=np.float32)
        b = pa.array([None if row % 3 == 0 else float(row) for row in range(start, start + n)], pa.float32())
        table = pa.table({"b": b, "rating": a % 5 + 1, "a": a})
        FileSink(str(folder)).write_table(f"{i}.parquet", table)
        files.append(folder / f"{i}.parquet")
        start += n
    return files


@pytest.mark.parametrize("lengths", [[1], [7], [3, 5, 4], [1, 1, 1], [11, 2], [0, 5, 0]])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_each_row_goes_to_one_rank_in_equal_runs(tmp_path: Path, lengths: list[int], world_size: int) -> None:
    files = write(tmp_path, lengths)
    shares = [list(boosting.batches(files, ["a", "b"], rank, world_size)) for rank in range(world_size)]
    rows = [np.concatenate([x[:, 0] for x, _ in share]) if share else np.zeros(0) for share in shares]
    assert np.concatenate(rows).tolist() == list(range(sum(lengths)))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_null_is_nan_and_labels_stay_with_their_rows(tmp_path: Path) -> None:
    ((x, y),) = boosting.batches(write(tmp_path, [6]), ["a", "b"])
    np.testing.assert_array_equal(x[:, 0] % 5 + 1, y)
    assert np.isnan(x[:, 1]).tolist() == [True, False, False, True, False, False]
    assert (x.dtype, y.dtype) == (np.float32, np.float32)


def test_a_rank_without_rows_still_has_a_matrix(tmp_path: Path) -> None:
    full = boosting.quantile_matrix(list(boosting.batches(write(tmp_path, [9]), ["a", "b"])), ["a", "b"])
    empty = boosting.quantile_matrix([], ["a", "b"], full)
    assert (full.num_row(), empty.num_row(), empty.num_col()) == (9, 0, 2)
    assert empty.feature_names == ["a", "b"]


def test_a_model_refuses_rows_with_other_features(tmp_path: Path) -> None:
    import xgboost as xgb

    matrix = boosting.quantile_matrix(list(boosting.batches(write(tmp_path, [9]), ["a", "b"])), ["a", "b"])
    data = bytes(xgb.train({"max_depth": 1}, matrix, 1).save_raw("ubj"))
    x = np.zeros((2, 2), dtype=np.float32)
    assert len(boosting.predict(boosting.load_model(data), x, ["a", "b"])) == 2
    with pytest.raises(ValueError, match="feature"):
        boosting.predict(boosting.load_model(data), x, ["b", "a"])
