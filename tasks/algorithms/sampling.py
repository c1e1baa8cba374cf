"""Evenly spread samples: one row in so many, so that the same rows are read whoever reads them."""

from __future__ import annotations


def stride(total: int, max_rows: int) -> int:
    """Return n such that every n-th of `total` rows are `max_rows` at most."""
    return max(1, -(-total // max_rows))
