"""Compare two tables of parquet files column by column, in passes that stream: memory does not grow with the rows.

Numbers and times are counted in ten bins, the deciles of A; texts and lists likewise by their lengths. Texts with few
different values, and truth values, are categories. Missing values (null, NaN, infinite) are a bin of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import polars as pl

from tasks.algorithms.distances import (
    population_stability_index,
    psi_by_chance,
    total_variation,
    total_variation_by_chance,
)
from tasks.core.part_files import scan_parts

Kind = Literal["number", "time", "length", "category"]
MAX_CATEGORIES = 1000
ROWS_PER_CATEGORY = 10  # in a text column with fewer rows for each of its values, these are no categories
SAMPLE_ROWS = 100_000  # evenly spaced rows of A from which deciles are taken; all rows are counted
DECILES = [i / 10 for i in range(1, 10)]
ROUNDING = 1e-9
TOP = 3  # categories that are named
MEASURES: dict[Kind, str] = {"number": "PSI", "time": "PSI", "length": "PSI of lengths", "category": "TV"}
Side = dict[str, Any]


@dataclass(frozen=True)
class Shift:
    """How a column differs between A and B. `distance` by `measure`: PSI (numbers), or TV, total variation;
    `by_chance`: that of two random samples as large, of one distribution.

    `a` and `b`: missing values, and mean, std, min and max of numbers, times (ms) or lengths; or the `top` categories
    with their shares, those whose shares differ most first. `different`: how many values texts have, about.
    """

    column: str
    kind: Kind
    measure: str
    distance: float
    by_chance: float
    a: Side
    b: Side

    @property
    def differs(self) -> bool:
        # The counts of equally distributed categories differ with the rows.
        return self.distance > ROUNDING or (self.kind != "category" and self.a != self.b)

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
    texts = [c for c, kind in kinds.items() if kind == "category"]
    different = [_different(frame, texts) for frame in frames]
    few = min(MAX_CATEGORIES, max(2, max(rows) // ROWS_PER_CATEGORY))
    categories = _categories(frames, [c for c in texts if max(side[c] for side in different) <= few])
    kinds |= {c: "length" for c, kind in kinds.items() if kind == "category" and c not in categories}
    values = {c: _value(c, schemas[0][c], kind) for c, kind in kinds.items() if kind != "category"}
    edges = _edges(frames[0], rows[0], values)
    counted = [_counted(frame, values, edges, n) for frame, n in zip(frames, rows, strict=True)]
    for known, sides in zip(different, counted, strict=True):
        for c in known.keys() & sides.keys():
            sides[c][1]["different"] = known[c]
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
    number = of.cast(pl.Float64)
    return pl.when(number.is_finite()).then(number)


def _different(frame: pl.LazyFrame, columns: Sequence[str]) -> dict[str, int]:
    """Estimate how many different values each column has, by HyperLogLog, within about a tenth."""
    return _collected(frame.select(_text(c).approx_n_unique() for c in columns)).row(0, named=True) if columns else {}


def _categories(frames: Sequence[pl.LazyFrame], columns: Sequence[str]) -> dict[str, list[dict[str | None, int]]]:
    """Count each value of these columns."""
    return {c: [_values_of(frame, c) for frame in frames] for c in columns}


def _values_of(frame: pl.LazyFrame, column: str) -> dict[str | None, int]:
    grouped = _collected(frame.group_by(_text(column).alias("name")).len("rows"))
    return dict(zip(grouped["name"].to_list(), grouped["rows"].to_list(), strict=True))


def _text(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String)


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
        found[c] = counts, {name: _rounded(of[name]) for name in ("missing", "mean", "std", "min", "max")}
    return found


def _rounded(value: float | None) -> float | None:
    """Round to 12 digits: the last ones depend on the order in which threads add."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _of_values(column: str, kind: Kind, a: tuple[list[float], Side], b: tuple[list[float], Side]) -> Shift:
    distance, by_chance = population_stability_index(a[0], b[0]), psi_by_chance(a[0], b[0])
    return Shift(column, kind, MEASURES[kind], distance, by_chance, a[1], b[1])


def _of_categories(column: str, a: dict[str | None, int], b: dict[str | None, int]) -> Shift:
    n, m = (max(1, sum(side.values())) for side in (a, b))

    def apart(name: str) -> tuple[float, int, str]:
        return -abs(b.get(name, 0) / m - a.get(name, 0) / n), -a.get(name, 0), name

    top = sorted({name for name in (*a, *b) if name is not None}, key=apart)[:TOP]
    sides = [
        {"missing": of.get(None, 0), "different": len(of) - (None in of), "top": {x: of.get(x, 0) / rows for x in top}}
        for of, rows in ((a, n), (b, m))
    ]
    distance, by_chance = total_variation(a, b), total_variation_by_chance(a, b)
    return Shift(column, "category", MEASURES["category"], distance, by_chance, *sides)
