"""Evenly spread samples: one row in so many, so that the same rows are read whoever reads them."""

from __future__ import annotations


def stride(total: int, max_rows: int) -> int:
    """Return of how many rows one is read, so that of `total` at most `max_rows` are."""
    return max(1, -(-total // max_rows))
