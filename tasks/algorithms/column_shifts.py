"""Compare two tables of parquet files column by column, in passes that stream: memory does not grow with the rows.

Numbers and times are counted in ten bins, the deciles of A; texts and lists likewise by their lengths. Texts with at
most MAX_CATEGORIES different values, and truth values, are categories. Missing values (null and NaN) are a bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import polars as pl

from tasks.algorithms.distances import population_stability_index, total_variation
from tasks.core.part_files import scan_parts

Kind = Literal["number", "time", "length", "category"]
MAX_CATEGORIES = 1000
SAMPLE_ROWS = 100_000  # evenly spaced rows of A from which deciles are taken; all rows are counted
DECILES = [i / 10 for i in range(1, 10)]
TOP = 3  # categories that are named
MEASURES: dict[Kind, str] = {"number": "PSI", "time": "PSI", "length": "PSI of lengths", "category": "TV"}
Side = dict[str, Any]


@dataclass(frozen=True)
class Shift:
    """How a column differs between A and B. `distance` by `measure`: PSI (numbers), or TV, total variation.

    `a` and `b`: missing values, and mean, std, min and max of numbers, times (ms) or lengths; or the `top` categories
    with their counts, those whose shares differ most first.
    """

    column: str
    kind: Kind
    measure: str
    distance: float
    a: Side
    b: Side

    @property
    def differs(self) -> bool:
        return self.distance > 0 or self.a != self.b

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def shifts(a: Sequence[Path], b: Sequence[Path], columns: Sequence[str]) -> list[Shift]:
    """Compare columns that both tables have with types of the same kind, the most different first."""
    frames = scan_parts(a), scan_parts(b)
    schemas = [frame.collect_schema() for frame in frames]
    kinds = {c: kind for c in columns if (kind := _kind(schemas[0][c])) and kind == _kind(schemas[1][c])}
    if not kinds:
        return []
    rows = [int(_collected(frame.select(pl.len())).item()) for frame in frames]
    categories = _categories(frames, [c for c, kind in kinds.items() if kind == "category"])
    kinds |= {c: "length" for c, kind in kinds.items() if kind == "category" and c not in categories}
    values = {c: _value(c, schemas[0][c], kind) for c, kind in kinds.items() if kind != "category"}
    edges = _edges(frames[0], rows[0], values)
    counted = [_counted(frame, values, edges, n) for frame, n in zip(frames, rows, strict=True)]
    found = [_of_values(c, kinds[c], counted[0][c], counted[1][c]) for c in values]
    found += [_of_categories(c, *sides) for c, sides in categories.items()]
    return sorted(found, key=lambda shift: (-shift.distance, not shift.differs, shift.column))


def _collected(frame: pl.LazyFrame) -> pl.DataFrame:
    return frame.collect(engine="streaming")


def _kind(dtype: pl.DataType) -> Kind | None:
    """Return the kind of a column; texts are categories until they are counted. None: it is not compared."""
    if dtype.is_numeric():
        return "number"
    if dtype in (pl.Datetime, pl.Date):
        return "time"
    if dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
        return "category"
    return "length" if isinstance(dtype, pl.List) else None


def _value(column: str, dtype: pl.DataType, kind: Kind) -> pl.Expr:
    """Return what is binned of a column, as a number."""
    of = pl.col(column)
    if kind == "length":
        return (of.list.len() if isinstance(dtype, pl.List) else of.str.len_chars()).cast(pl.Float64)
    if kind == "time":
        return of.cast(pl.Datetime("ms")).cast(pl.Int64).cast(pl.Float64)
    return of.cast(pl.Float64).fill_nan(None)


def _categories(frames: Sequence[pl.LazyFrame], columns: Sequence[str]) -> dict[str, list[dict[str | None, int]]]:
    """Count the values of each column that has few."""
    if not columns:
        return {}
    many: set[str] = set()
    for frame in frames:  # HyperLogLog: its error is a few percent
        different = _collected(frame.select(pl.col(c).cast(pl.String).approx_n_unique() for c in columns))
        many |= {c for c in columns if different[c].item() > MAX_CATEGORIES}
    found: dict[str, list[dict[str | None, int]]] = {}
    for c in columns:
        if c not in many:
            grouped = [_collected(f.group_by(pl.col(c).cast(pl.String).alias("name")).len("rows")) for f in frames]
            found[c] = [dict(zip(g["name"].to_list(), g["rows"].to_list(), strict=True)) for g in grouped]
    return found


def _edges(a: pl.LazyFrame, rows: int, values: Mapping[str, pl.Expr]) -> dict[str, list[float]]:
    """Return the different deciles of each column of A."""
    step = max(1, -(-rows // SAMPLE_ROWS))
    some = a if step == 1 else a.with_row_index("_row").filter(pl.col("_row") % step == 0)
    sampled = _collected(some.select(value.alias(c) for c, value in values.items()))
    deciles = {c: [sampled[c].quantile(q, "lower") for q in DECILES] for c in values}
    return {c: sorted({edge for edge in found if edge is not None}) for c, found in deciles.items()}


def _counted(
    frame: pl.LazyFrame, values: Mapping[str, pl.Expr], edges: Mapping[str, Sequence[float]], rows: int
) -> dict[str, tuple[list[float], Side]]:
    """Return for each column its counts, by bin and last of the missing, and its summary."""
    wanted = [
        expression.alias(f"{c}\n{name}")
        for c, value in values.items()
        for name, expression in {
            "missing": value.null_count(),
            "mean": value.mean(),
            "std": value.std(),
            "min": value.min(),
            "max": value.max(),
            **{str(i): (value <= edge).sum() for i, edge in enumerate(edges[c])},
        }.items()
    ]
    row = _collected(frame.select(wanted)).row(0, named=True) if wanted else {}
    found = {}
    for c in values:
        of = {name.partition("\n")[2]: value for name, value in row.items() if name.partition("\n")[0] == c}
        up_to = [0, *(of[str(i)] for i in range(len(edges[c]))), rows - of["missing"]]
        counts = [high - low for low, high in pairwise(up_to)] + [of["missing"]]
        found[c] = counts, {name: of[name] for name in ("missing", "mean", "std", "min", "max")}
    return found


def _of_values(column: str, kind: Kind, a: tuple[list[float], Side], b: tuple[list[float], Side]) -> Shift:
    return Shift(column, kind, MEASURES[kind], population_stability_index(a[0], b[0]), a[1], b[1])


def _of_categories(column: str, a: dict[str | None, int], b: dict[str | None, int]) -> Shift:
    n, m = max(1, sum(a.values())), max(1, sum(b.values()))

    def apart(name: str) -> tuple[float, int, str]:
        return -abs(b.get(name, 0) / m - a.get(name, 0) / n), -a.get(name, 0), name

    top = sorted({name for name in (*a, *b) if name is not None}, key=apart)[:TOP]
    sides = [
        {"missing": of.get(None, 0), "different": len(of) - (None in of), "top": {x: of.get(x, 0) for x in top}}
        for of in (a, b)
    ]
    return Shift(column, "category", MEASURES["category"], total_variation(a, b), *sides)
