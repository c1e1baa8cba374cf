"""Replace class labels, whole numbers whose names are in the metadata of a parquet file, by their names.

Hugging Face's `datasets` writes a `ClassLabel` so: `verified_purchase` may be 0 for "Y" and 1 for "N".
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import polars as pl

Names = dict[str, list[str]]


def names_of(metadata: Mapping[bytes, bytes] | None) -> Names:
    """Return the labels' names by column from a parquet file's metadata."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        columns = {c: f["names"] for c, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {c: list(map(str, names)) for c, names in columns.items() if isinstance(names, list)}


def by_name(frame: pl.DataFrame, labels: Names) -> pl.DataFrame:
    """Return the frame with the labels' names as texts; null for -1, which stands for no label."""
    for column, names in labels.items():
        if column in frame.columns and frame.schema[column].is_integer():
            numbers = pl.col(column).cast(pl.Int64)
            known = {-1: None, **dict(enumerate(names))}
            unnamed = pl.format("class label {} without a name", numbers)
            text = numbers.replace_strict(known, default=unnamed, return_dtype=pl.String)
            frame = frame.with_columns(pl.when(numbers.is_not_null()).then(text).alias(column))
    return frame
