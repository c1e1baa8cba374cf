"""A chunk of reviews with rows that cannot be scored: they are told, and the others have their predictions."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.algorithms.conformal import Intervals
from tasks.core.errors import RunError
from tasks.domain.schemas import UNRATED
from tasks.domain.targets import target_of
from tasks.stages.score.scorer import PROBLEM, RECORD, Scorer, schema


class Model:
    """Predicts 3 plus the length of the text; fails on poison, with all rows of the call."""

    intervals = Intervals(0.9, [], [-1.0], [0.5])
    names = ("long", "loud")
    about = SimpleNamespace(groups={"text": ["long"]})

    def features(self, reviews: pl.DataFrame) -> Any:
        if (reviews["text"] == "poison").any():
            raise ValueError("a text that nobody can read\nand more")
        long = reviews["text"].str.len_chars().to_numpy()
        return np.stack([long, np.zeros(len(long))], axis=1).astype(np.float32)

    def predict_features(self, features: Any) -> Any:
        values = 3 + features[:, 0]
        return np.where(values > 9, np.nan, values).astype(np.float32)

    def contributions(self, features: Any) -> Any:
        return np.stack([np.full(len(features), 0.25), -features[:, 0]], axis=1).astype(np.float32)


def scorer(reasons: int = 0) -> Scorer:
    one = object.__new__(Scorer)
    one.model, one.version, one.reasons = Model(), "7", reasons  # type: ignore[assignment]
    one.target, one.schema = target_of("rating"), schema(1)
    return one


def reviews(texts: list[str]) -> pa.Table:
    row = {"user_id": "u", "item_id": "i", "title": "", "timestamp": 0}
    return pa.Table.from_pylist([{**row, "review_id": f"R{i}", "text": t} for i, t in enumerate(texts)], schema=UNRATED)


@given(texts=st.lists(st.sampled_from(["a", "bb", "poison", "so very long"]), max_size=12))
def test_each_row_has_a_prediction_or_a_problem_in_its_place(texts: list[str]) -> None:
    scored = scorer()(reviews(texts)).to_pylist()
    assert [row["review_id"] for row in scored] == [f"R{i}" for i in range(len(texts))]
    for row, text in zip(scored, texts, strict=True):
        if text in ("a", "bb"):
            assert (row["prediction"], row[PROBLEM], row["model_version"]) == (3 + len(text), None, "7")
        else:
            why = "a text that nobody can read" if text == "poison" else "the prediction is not finite"
            assert (row["prediction"], row[PROBLEM]) == (None, why)


def test_the_row_itself_is_told_beside_its_problem() -> None:
    (_, row) = scorer()(reviews(["a", "poison"])).to_pylist()
    told = json.loads(row[RECORD])
    assert [told[name] for name in ("user_id", "item_id", "text", "timestamp")] == [
        "u", "i", "poison", "1970-01-01 00:00:00+00:00",
    ]  # fmt: skip
    assert scorer()(reviews(["a"]))[RECORD].null_count == 1


def test_a_model_of_the_stars_scores_no_review_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a", "bb", "poison", "a", "bb"]
    table = reviews(texts).set_column(3, UNRATED.field("rating"), pa.array([None, 5, None, 4, None], pa.float32()))
    assert scorer()(table)["prediction"].null_count == 1
    monkeypatch.setattr(Model, "about", SimpleNamespace(groups={"stars": ["rating"]}))
    scored = scorer()(table)
    assert scored["review_id"].to_pylist() == [f"R{i}" for i in range(5)]
    assert scored["prediction"].to_pylist() == [None, 5, None, 4, None]
    assert scored[PROBLEM].to_pylist() == [
        "no rating, which this model needs" if i in (0, 2, 4) else None for i in range(5)
    ]


def test_a_fault_of_all_rows_is_raised_after_a_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fail(self: Model, given: pl.DataFrame) -> Any:
        calls.append(len(given))
        raise ValueError("no such feature: loud")

    for texts in (["a"] * 30 + ["poison"] * 100, ["poison"] * 100 + ["a"] * 30):  # some that can be scored
        assert scorer()(reviews(texts))["prediction"].null_count == 100
    monkeypatch.setattr(Model, "features", fail)
    with pytest.raises(RunError, match="20 rows, each alone: no such feature: loud"):
        scorer()(reviews(["a"] * 1000))
    assert len(calls) == 21
    assert scorer()(reviews(["a"] * 12))["prediction"].null_count == 12  # too few to tell


def test_an_error_of_the_process_is_not_a_rows_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Model, "features", fail)
    with pytest.raises(MemoryError):
        scorer()(reviews(["a", "bb"]))


def test_intervals_stay_within_the_range_and_reasons_come_by_their_size() -> None:
    (short, longer) = scorer(reasons=2)(reviews(["a", "bb"])).to_pylist()
    assert (short["low"], short["high"], longer["high"]) == (3.0, 4.5, 5.0)
    assert [one["feature"] for one in longer["reasons"]] == ["loud", "long"]
    assert longer["reasons"][0]["contribution"] == -2
    assert scorer()(reviews(["a"]))["reasons"].to_pylist() == [None]
