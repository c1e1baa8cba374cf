"""Score canonical reviews with a packaged model: predictions, intervals and reasons, a row for each review."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tasks.core.errors import RaymillError, RunError
from tasks.domain.metrics import expected
from tasks.domain.targets import target_of
from tasks.stages.package.review_model import ReviewModel

PROBLEM = "problem"  # why a row has no prediction; null where it has one
RECORD = "record"  # the row itself as JSON text, where it has no prediction
TEXT_CHARS = 2000  # of a text in RECORD
SAME = 20  # if so many rows, spread over a chunk, fail alike, none of them is at fault
REASON = pa.struct([("feature", pa.string()), ("contribution", pa.float32())])
# Errors that a row's contents may cause; others are the process's, and end the chunk.
OF_ROWS = (RaymillError, ValueError, ArithmeticError, IndexError, pl.exceptions.PolarsError, pa.ArrowException)


def schema(classes: int) -> pa.Schema:
    """Return the columns of scored reviews. Of several classes `prediction` is the expected stars."""
    shares = [pa.field(f"prediction_{k}", pa.float32()) for k in range(1, classes + 1)] if classes > 1 else []
    return pa.schema(
        [
            pa.field("review_id", pa.string(), nullable=False),
            pa.field("prediction", pa.float32(), nullable=False),
            *shares,
            pa.field("low", pa.float32()),  # of the interval; null where the model has none
            pa.field("high", pa.float32()),
            pa.field("model_version", pa.string(), nullable=False),
            pa.field("reasons", pa.list_(REASON)),  # null unless they are asked for
        ]
    )


class Scorer:
    """A model at work. reasons: how many of the largest contributions (SHAP values) to give with each prediction."""

    def __init__(self, folder: Path, version: str, reasons: int) -> None:
        self.model = ReviewModel.load(folder)
        self.model.check()
        self.version, self.reasons = version, reasons
        self.target = target_of(self.model.about.target)
        self.schema = schema(self.target.classes)

    def __call__(self, reviews: pa.Table) -> pa.Table:
        """Score (n rows of `schemas.UNRATED`): the columns of `schema`, PROBLEM and RECORD.

        A row that cannot be scored does not hinder the others: it is found by halving the rows, and has a PROBLEM.
        Raises RunError if rows from all over the table fail alike, each alone: then it is not their fault.
        """
        frame = pl.DataFrame(pl.from_arrow(reviews))
        if "stars" not in self.model.about.groups or not frame["rating"].null_count():
            return self._all(frame)
        lacking = frame["rating"].is_null()
        told = self._unscored(frame.filter(lacking), "no rating, which this model needs")
        scored = pa.concat_tables([self._all(frame.filter(~lacking)), told])
        return scored.take(np.argsort(np.argsort(lacking.to_numpy(), kind="stable")))

    def _all(self, reviews: pl.DataFrame) -> pa.Table:
        return pa.concat_tables([self._empty(), *self._some(reviews, whole=True)])

    def _some(self, reviews: pl.DataFrame, *, whole: bool) -> Iterator[pa.Table]:
        try:
            if len(reviews):
                yield self._scored(reviews)
        except OF_ROWS as error:
            if len(reviews) == 1:
                yield self._unscored(reviews, _in_short(error))
                return
            if whole and len(reviews) >= SAME:
                self._find_common_fault(reviews)
            half = len(reviews) // 2
            yield from self._some(reviews[:half], whole=False)
            yield from self._some(reviews[half:], whole=False)

    def _find_common_fault(self, reviews: pl.DataFrame) -> None:
        """Raise RunError if so many as SAME rows, evenly spread, fail for the same reason."""
        causes: set[str] = set()
        for i in np.linspace(0, len(reviews) - 1, SAME).astype(int):
            try:
                self._scored(reviews.slice(i, 1))
            except OF_ROWS as error:
                causes.add(_in_short(error))
            else:
                return
            if len(causes) > 1:
                return
        raise RunError(f"{SAME} rows, each alone: {causes.pop()}", fix="look at the model and at these rows")

    def _scored(self, reviews: pl.DataFrame) -> pa.Table:
        features = self.model.features(reviews)
        shares = self.model.predict_features(features)
        prediction = expected(self.target, shares).astype(np.float32)
        if not np.isfinite(prediction).all():
            raise ValueError("the prediction is not finite")
        columns: dict[str, Any] = {"review_id": reviews["review_id"].to_arrow(), "prediction": prediction}
        if shares.ndim == 2:
            columns |= {f"prediction_{k + 1}": shares[:, k] for k in range(shares.shape[1])}
        nothing = pa.nulls(len(reviews), pa.float32())
        columns["low"] = columns["high"] = nothing
        if self.model.intervals is not None:
            stars = (1, self.target.classes) if self.target.classes > 1 else (self.target.low, self.target.high)
            columns["low"], columns["high"] = self.model.intervals.around(prediction, *stars)
        columns["model_version"] = pa.repeat(self.version, len(reviews))
        columns["reasons"] = self._reasons(features) if self.reasons else pa.nulls(len(reviews), pa.list_(REASON))
        columns[PROBLEM] = columns[RECORD] = pa.nulls(len(reviews), pa.string())
        empty = self._empty()
        return pa.table(columns).select(empty.column_names).cast(empty.schema)

    def _reasons(self, features: NDArray[np.float32]) -> pa.Array:
        """(n,) lists of the features with the largest contributions, the largest first."""
        shares: NDArray[np.float32] = self.model.contributions(features)
        names, k = np.array(self.model.names), min(self.reasons, shares.shape[1])
        order = np.argsort(-np.abs(shares), axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(shares, order, axis=1).reshape(-1)
        given = pa.StructArray.from_arrays([pa.array(names[order.reshape(-1)]), pa.array(values)], fields=list(REASON))
        offsets = pa.array(np.arange(len(shares) + 1, dtype=np.int32) * k)
        return pa.ListArray.from_arrays(offsets, given)

    def _unscored(self, reviews: pl.DataFrame, problem: str) -> pa.Table:
        shown = reviews.with_columns(pl.col("title", "text").str.slice(0, TEXT_CHARS))
        nothing = dict.fromkeys(self._empty().column_names)
        rows = [
            {
                **nothing,
                "review_id": review["review_id"],
                PROBLEM: problem,
                RECORD: json.dumps(review, ensure_ascii=False, default=str),
            }
            for review in shown.to_dicts()
        ]
        return pa.Table.from_pylist(rows, schema=self._empty().schema)

    def _empty(self) -> pa.Table:
        fields = [field.with_nullable(True) for field in self.schema]
        return pa.schema([*fields, pa.field(PROBLEM, pa.string()), pa.field(RECORD, pa.string())]).empty_table()


def _in_short(error: BaseException) -> str:
    return str(error).partition("\n")[0]
