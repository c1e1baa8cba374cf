"""Slices of the test rows: assign each row to its slices, sum the losses of each, and find much worse ones.

A slice's name is a phrase ("stars 1", "new user"). A table that lacks a column has no slices by it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.domain.losses import overall
from tasks.stages.evaluate.settings import EvaluateConfig

MODELS = ("mean", "linear", "baseline", "tuned")
SLICES = pa.schema(
    [("slice", pa.string()), ("rows", pa.int64())]
    + [(f"loss_{m}", pa.float64()) for m in MODELS]
    + [("ratio", pa.float64()), ("warning", pa.bool_())]
)
WHOLE = "all"
Sums = dict[str, Counter[str]]  # slice: {"rows", and for each model the sum of its losses}


def memberships(rows: pl.DataFrame, repeats: Sequence[str], config: EvaluateConfig) -> pl.DataFrame:
    """Return the slice of each row, a column for each kind of slice; null where a row is in no slice of that kind.

    rows: `rating`, `category`, `review_id`, and, if the features have them, `n_chars`, `user_count`, `item_count` and
    `verified`. repeats: ids of the reviews whose text nearly repeats one of an earlier split.
    """
    ways = {
        "all": pl.lit(WHOLE),
        "stars": pl.format("stars {}", (pl.col("rating") + 0.5).floor().cast(pl.Int8)),
        "category": pl.format("category {}", pl.col("category").fill_null("unknown")),
    }
    either = {
        "n_chars": (
            pl.col("n_chars") < config.short_chars,
            f"text under {config.short_chars} characters",
            f"text of {config.short_chars} characters and more",
        ),
        "user_count": (pl.col("user_count") == 0, "new user", "known user"),
        "item_count": (pl.col("item_count") == 0, "new item", "known item"),
        "verified": (pl.col("verified") > 0, "purchase verified", "purchase not verified"),
    }
    for column, (condition, this, that) in either.items():
        if column in rows.columns:
            present = pl.col(column).is_not_null()
            ways[column] = pl.when(present & condition).then(pl.lit(this)).when(present).then(pl.lit(that))
    if repeats:
        again = pl.col("review_id").is_in(list(repeats))
        ways["repeats"] = pl.when(again).then(pl.lit("text nearly repeats an earlier one"))
    return rows.select(**ways)


def add_losses(rows: pl.DataFrame, losses: Mapping[str, Any], repeats: Sequence[str], config: EvaluateConfig) -> Sums:
    """Count rows and sum losses by slice. losses: {model: (n,) float64}."""
    frame = pl.DataFrame({"rows": pl.ones(len(rows), pl.Int64, eager=True), **losses})
    sums: Sums = {}
    for column in memberships(rows, repeats, config):
        for record in frame.group_by(column.rename("slice")).agg(pl.all().sum()).to_dicts():
            if (name := record.pop("slice")) is not None:
                sums[name] = Counter(record)
    return sums


def add_up(parts: Iterable[Sums]) -> Sums:
    total: Sums = defaultdict(Counter)
    for part in parts:
        for name, sums in part.items():
            total[name].update(sums)
    return total


def metric_by_slice(sums: Sums, model: str, metric: str, config: EvaluateConfig) -> dict[str, tuple[int, float]]:
    """Return {slice: (rows, the model's metric)} by name, without the whole and all but the largest categories."""
    categories = sorted((n for n in sums if n.startswith("category ")), key=lambda n: (-sums[n]["rows"], n))
    left_out = {*categories[config.categories :], WHOLE}
    return {
        name: (int(s["rows"]), overall(metric, s[model] / s["rows"]))
        for name, s in sorted(sums.items())
        if name not in left_out
    }


def table(sums: Sums, metric: str, config: EvaluateConfig) -> pa.Table:
    """Make the table of slices (SLICES), by name.

    loss_MODEL: null for a model that was not scored. ratio: the tuned model's metric over its metric on all rows;
    warning: the ratio is above `config.worse_than`, and the slice has at least `config.min_rows` rows.
    """
    by_model = {m: metric_by_slice(sums, m, metric, config) for m in MODELS if m in sums[WHOLE]}
    overall_loss = overall(metric, sums[WHOLE]["tuned"] / sums[WHOLE]["rows"])
    records = []
    for name, (rows, tuned) in by_model["tuned"].items():
        ratio = tuned / overall_loss if overall_loss > 0 else None
        record = {"slice": name, "rows": rows, **{f"loss_{m}": by_model[m][name][1] for m in by_model}}
        too_high = ratio is not None and ratio > config.worse_than and rows >= config.min_rows
        records.append({**record, "ratio": ratio, "warning": too_high})
    return pa.Table.from_pylist(records, SLICES)
