"""Compare two tables row for row: how many rows differ, and in what the first one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class Compared:
    """A comparison. `rows`: keys that either side has; `differing`: those of them that the sides do not agree on;
    `first`: what the first of these is, "" without any."""

    job: str
    columns: int
    rows: int
    differing: int
    first: str = ""


def compare(job: str, ours: Any, theirs: Any, key: Sequence[str], *, ordered: bool = False) -> Compared:
    """Compare two Polars frames by `key`, which must be unique, over all other columns of ours.

    Nothing is rounded and there is no tolerance; null equals null, and NaN NaN. A key that one side lacks differs.
    ordered: rows that both sides have must be in the same order, too. Raises ValueError for a key that is not unique.
    """
    import polars as pl

    names = [name for name in ours.columns if name not in key]
    for side, frame in (("ours", ours), ("Spark's", theirs)):
        if frame.select(pl.struct(key).is_duplicated().any()).item():
            raise ValueError(f"{job}: {', '.join(key)} repeat in {side}")
    mine = ours.select(*key, *names).with_columns(here=pl.lit(True))
    yours = (
        theirs.select(*key, *names).cast({n: ours.schema[n] for n in (*key, *names)}).with_columns(here=pl.lit(True))
    )
    if ordered:
        mine, yours = mine.with_row_index("at"), yours.with_row_index("at")
    both = mine.join(yours, on=list(key), how="full", coalesce=True, suffix="_spark", maintain_order="left_right")
    if ordered:
        # The place among the rows that both have: a row that one side lacks does not move all that follow it.
        shared = pl.col("here") & pl.col("here_spark")
        places = (pl.col(at).rank("ordinal").over(shared) for at in ("at", "at_spark"))
        both = both.with_columns(*(p.alias(a) for p, a in zip(places, ("place", "place_spark"), strict=True)))
        both = both.with_columns(pl.when(shared).then(pl.col("place", "place_spark")))
        names.append("place")
    unequal = [pl.col(name).ne_missing(pl.col(f"{name}_spark")) for name in ("here", *names)]
    wrong = both.filter(pl.any_horizontal(unequal))
    first = _say(wrong.row(0, named=True), key, names) if len(wrong) else ""
    return Compared(job, len(names), len(both), len(wrong), first)


def _say(row: dict[str, Any], key: Sequence[str], names: Sequence[str]) -> str:
    where = ", ".join(f"{k} {row[k]!r:.{SHOWN}}" for k in key)
    if not (row["here"] and row["here_spark"]):
        return f"{where}: only {'ours' if row['here'] else 'Spark'} has it"
    differing = [n for n in names if row[n] != row[f"{n}_spark"]]
    return f"{where}: " + "; ".join(f"{n} {row[n]!r:.{SHOWN}}, Spark {row[f'{n}_spark']!r:.{SHOWN}}" for n in differing)
