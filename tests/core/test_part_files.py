"""A file is read by its path alone, whatever its folders are called."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import polars as pl

from tasks.core.part_files import in_batches, read_part, scan_parts


def test_a_folder_that_looks_like_a_column_or_a_pattern_adds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run=1" / "reviews[2]*"
    folder.mkdir(parents=True)
    files = [folder / "part-00001.parquet", folder / "part-00000.parquet"]
    for number, file in enumerate(files):
        pl.DataFrame({"a": [number], "b": [str(number)]}).write_parquet(file)
    assert read_part(files[0]).to_dicts() == [{"a": 0, "b": "0"}]
    assert read_part(files[0], ("b",)).to_dicts() == [{"b": "0"}]
    assert scan_parts(files).collect()["a"].to_list() == [0, 1]


def test_batches_hold_at_least_so_many_rows_and_keep_all_parts_in_order() -> None:
    parts = [SimpleNamespace(rows=rows) for rows in (3, 4, 10, 1, 1)]
    assert [[part.rows for part in batch] for batch in in_batches(parts, 5)] == [[3, 4], [10], [1, 1]]
    assert in_batches([], 5) == []
