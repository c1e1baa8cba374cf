"""Find values that a spreadsheet or a script has spoilt before they came here, to warn of them."""

from __future__ import annotations

from collections import Counter

import polars as pl

_SPOILT = {
    r"^[0-9](?:\.[0-9]+)?[eE]\+[0-9]+$": (
        ("user_id", "item_id"),
        "are numbers such as 9.78E+12, as a spreadsheet writes them: digits are lost, and ids that differ become one",
    ),
    r"""^b(?:'.*'|".*")$""": (
        ("user_id", "item_id", "title", "text"),
        "are written as Python's bytes, b'…': write them again, decoded",
    ),
}
SHARE = 0.05  # of the rows from which it is no chance


def count_spoilt(kept: pl.DataFrame) -> Counter[tuple[str, str]]:
    """Count the values of each column that look spoilt, by (column, what is wrong)."""
    return Counter(
        {
            (column, wrong): int(kept[column].str.contains(f"(?s){pattern}").sum())
            for pattern, (columns, wrong) in _SPOILT.items()
            for column in columns
        }
    )


def warnings(spoilt: Counter[tuple[str, str]], rows: int) -> list[str]:
    return [f"{n / rows:.0%} of {column} {wrong}" for (column, wrong), n in spoilt.items() if n >= max(1, SHARE * rows)]
