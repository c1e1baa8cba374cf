"""A file is read by its path alone, whatever its folders are called."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tasks.core.part_files import read_part, scan_parts


def test_a_folder_that_looks_like_a_column_or_a_pattern_adds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run=1" / "reviews[2]*"
    folder.mkdir(parents=True)
    files = [folder / "part-00001.parquet", folder / "part-00000.parquet"]
    for number, file in enumerate(files):
        pl.DataFrame({"a": [number], "b": [str(number)]}).write_parquet(file)
    assert read_part(files[0]).to_dicts() == [{"a": 0, "b": "0"}]
    assert read_part(files[0], ("b",)).to_dicts() == [{"b": "0"}]
    assert scan_parts(files).collect()["a"].to_list() == [0, 1]
