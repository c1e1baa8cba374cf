"""What the watch over a night comes to: the price of its mix, what became of it, and what is only told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.domain.targets import TARGETS
from tasks.settings import load_settings
from tasks.stages.evaluate.settings import EvaluateConfig
from tasks.stages.features.columns import Columns, as_columns
from tasks.stages.package.layout import ABOUT
from tasks.stages.reference.layout import About, Reference, cells_of
from tasks.stages.reference.measures import measure, ruler_of
from tasks.stages.reference.stage import cells, row_losses
from tasks.stages.score.registered import RegisteredModel
from tasks.stages.watch import stage
from tasks.stages.watch.drift import drift, slices
from tasks.stages.watch.findings import EXPECTED, REALISED, UNPRICED, Findings, findings
from tasks.stages.watch.realised import Realised, realised
from tasks.stages.watch.settings import WatchConfig
from tests.support.packaged import about

CONFIG = WatchConfig(**load_settings().watch.model_dump())
EVALUATE = EvaluateConfig(**load_settings().evaluate.model_dump())
UNSEEN = datetime(2026, 3, 1, tzinfo=UTC)
FEATURES = ["n_chars", "user_count", "new_words"]


def reviews(n: int, short: float, seed: int = 1) -> pl.DataFrame:
    """Reviews of which the short ones have large errors, and nothing else matters."""
    random = np.random.default_rng(seed)
    is_short = random.random(n) < short
    label = random.integers(1, 6, n).astype(np.float32)
    return pl.DataFrame(
        {
            "category": ["Books"] * n,
            "n_chars": np.where(is_short, 50, 500).astype(np.float32),
            "user_count": random.poisson(1, n).astype(np.float32),
            "new_words": random.random(n).astype(np.float32),
            "label": label,
            "prediction": (label + np.where(is_short, 2.0, 0.5) * random.choice([-1, 1], n)).astype(np.float32),
        }
    )


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(reviews(4000, short=0.2))


def reference_of(rows: pl.DataFrame) -> Reference:
    ruler = ruler_of(rows, FEATURES, EVALUATE, bins=20)
    measured, lost = measure(rows, ruler), row_losses(rows, TARGETS["rating"])
    histograms = pl.DataFrame(pl.from_arrow(measured.table(ruler)))
    keys = list(zip(histograms["slice"].to_list(), histograms["column"].to_list(), strict=True))
    return Reference(
        About(
            target="rating",
            metric="rmse",
            rows=len(rows),
            mean_loss=float(lost.mean()),
            unseen_from=UNSEEN.isoformat(),
            ruler=ruler,
        ),
        dict(zip(keys, histograms["counts"].to_list(), strict=True)),
        dict(zip(keys, histograms["total"].to_list(), strict=True)),
        cells_of(pl.DataFrame(pl.from_arrow(cells(measured.levels, lost)))),
    )


def watched(rows: pl.DataFrame, reference: Reference, turned_out: Realised | None = None, **other: Any) -> Findings:
    measured = measure(rows, reference.about.ruler) if len(rows) else None
    return findings(measured, turned_out or Realised(), reference, CONFIG.model_copy(update=other))


def loss_of(rows: pl.DataFrame) -> float:
    return float(row_losses(rows, TARGETS["rating"]).mean() ** 0.5)


def warned(found: Findings) -> list[str]:
    return [warning["expectation"] for warning in found.warnings]


def test_a_night_like_the_test_slice_is_expected_to_cost_as_much_and_warns_of_nothing(reference: Reference) -> None:
    for seed in range(10):
        found = watched(reviews(400, short=0.2, seed=100 + seed), reference)
        assert found.warnings == found.told == []
        assert found.expected_loss == pytest.approx(found.reference_loss, rel=0.1)


def test_a_night_of_what_the_model_is_bad_at_is_expected_to_cost_what_it_then_costs(reference: Reference) -> None:
    night = reviews(1000, short=0.8, seed=2)
    found = watched(night, reference)
    assert warned(found) == [EXPECTED]
    assert found.expected_loss == pytest.approx(loss_of(night), rel=0.03)
    assert found.reference_loss == pytest.approx(1.0, rel=0.05)
    limit = found.warnings[0]["limit"]
    assert "10% above the test slice's" in limit
    assert (
        watched(night, reference, max_excess=5.0).warnings == watched(night, reference, max_excess=None).warnings == []
    )


def test_few_rows_are_priced_but_warn_of_nothing_and_no_rows_are_told(reference: Reference) -> None:
    few = watched(reviews(3, short=1.0), reference)
    assert few.warnings == []
    assert few.watched == 3
    assert few.expected_loss is not None
    assert "3 rows are fewer than watch.min_rows" in few.told[0]
    none = watched(reviews(0, short=1.0), reference)
    assert (none.watched, none.expected_loss, none.warnings) == (0, None, [])
    assert "nothing to watch" in none.told[0]


def test_an_excess_that_may_be_chance_is_no_warning(reference: Reference) -> None:
    """Forty reviews, of which a few more are short than one would expect."""
    night = pl.concat([reviews(10, short=1.0, seed=3), reviews(30, short=0.0, seed=4)])
    found = watched(night, reference, min_rows=10, max_excess=0.01)
    assert found.expected_excess is not None
    assert found.expected_excess > 0.01
    assert found.warnings == []


def test_reviews_of_a_kind_without_known_errors_are_told_as_such(reference: Reference) -> None:
    night = reviews(500, short=0.2, seed=5).with_columns(category=pl.Series(["Books"] * 300 + ["Boats"] * 200))
    found = watched(night, reference)
    assert warned(found) == [UNPRICED]
    assert found.unpriced == pytest.approx(0.4)
    assert found.expected_loss == pytest.approx(found.reference_loss, rel=0.1)


def test_a_night_that_is_all_of_an_unknown_kind_costs_what_the_others_say_and_warns_of_that_alone(
    reference: Reference,
) -> None:
    night = reviews(500, short=0.2, seed=5).with_columns(category=pl.lit("Boats"))
    found = watched(night, reference)
    assert (warned(found), found.unpriced) == ([UNPRICED], 1)
    assert found.expected_loss == pytest.approx(found.reference_loss, rel=0.1)
    worse = reviews(500, short=0.9, seed=5).with_columns(category=pl.lit("Boats"))
    assert warned(watched(worse, reference)) == [UNPRICED]
    assert warned(watched(worse, reference, max_unpriced=None)) == [EXPECTED]


def test_what_the_test_slice_never_has_together_is_priced_roughly_and_new_users_are_counted(
    reference: Reference,
) -> None:
    rows = reviews(4000, short=0.5, seed=9)
    narrow = reference_of(rows.filter((pl.col("n_chars") > 200) == (pl.col("user_count") > 0)))
    found = watched(rows.filter((pl.col("n_chars") < 200) & (pl.col("user_count") > 0)), narrow)
    assert "the expected loss is rough" in found.told[0]
    assert found.new_users == 0
    assert watched(rows, reference).new_users == pytest.approx((rows["user_count"] == 0).mean())


def test_the_realised_loss_warns_where_the_mix_does_not(reference: Reference) -> None:
    night = reviews(600, short=0.2, seed=6)
    worse = findings(measure(night, reference.about.ruler), Realised(600, 4.0, 0.1), reference, CONFIG)
    assert warned(worse) == [REALISED]
    assert worse.realised_loss == pytest.approx(2.0)
    uncertain = findings(measure(night, reference.about.ruler), Realised(600, 1.5, 0.5), reference, CONFIG)
    assert uncertain.warnings == []


def test_a_realised_loss_is_no_warning_where_the_test_slice_itself_is_uncertain() -> None:
    few = reference_of(reviews(60, short=0.2))
    night, turned_out = reviews(600, short=0.2, seed=6), Realised(100_000, few.about.mean_loss * 1.3, 0.001)
    assert few.cells.error > 0.15 * few.about.mean_loss
    assert warned(findings(measure(night, few.about.ruler), turned_out, few, CONFIG)) == []
    many = reference_of(reviews(20_000, short=0.2))
    turned_out = Realised(100_000, many.about.mean_loss * 1.3, 0.001)
    assert warned(findings(measure(night, many.about.ruler), turned_out, many, CONFIG)) == [REALISED]


def test_the_drift_is_where_it_is_and_the_slices_say_what_it_costs(reference: Reference) -> None:
    measured = measure(reviews(1000, short=0.8, seed=2), reference.about.ruler)
    table = pl.DataFrame(pl.from_arrow(drift(measured, reference, least=50)))
    whole = {row["column"]: row for row in table.filter(pl.col("slice") == "all").to_dicts()}
    assert whole["n_chars"]["psi"] > 1
    assert whole["n_chars"]["ks"] == pytest.approx(0.6, abs=0.05)
    assert whole["user_count"]["psi"] < 4 * whole["user_count"]["by_chance"]
    within = table.filter((pl.col("slice") == "text under 200 characters") & (pl.col("column") == "n_chars"))
    assert within["psi"].item() < 0.01
    by_name = {row["slice"]: row for row in slices(measured, reference).to_pylist()}
    short = by_name["text under 200 characters"]
    assert (short["share"], short["loss"]) == (pytest.approx(0.8, abs=0.05), pytest.approx(2.0))
    assert short["effect"] == max(row["effect"] for row in by_name.values() if row["effect"] is not None) > 1


def test_reviews_that_the_model_may_have_learned_from_are_counted_and_have_no_realised_loss(
    reference: Reference, tmp_path: Path
) -> None:
    times = [UNSEEN - timedelta(days=2), UNSEEN - timedelta(milliseconds=1), UNSEEN, UNSEEN + timedelta(days=1)]
    stars = pl.DataFrame({"review_id": list("abcd"), "rating": [5.0, 5.0, 1.0, 1.0], "timestamp": times})
    stars.cast({"rating": pl.Float32}).write_parquet(tmp_path / "rated.parquet")
    predicted = pl.DataFrame({"review_id": list("abcd"), "prediction": [5.0, 5.0, 3.0, None]})
    predicted.cast({"prediction": pl.Float32}).write_parquet(tmp_path / "scored.parquet")
    files = [tmp_path / "rated.parquet"], [tmp_path / "scored.parquet"], TARGETS["rating"]
    found = realised(*files, UNSEEN)
    assert (found.rows, found.mean, found.learned) == (1, 4.0, 2)
    told = watched(reviews(400, short=0.2), reference, found)
    assert "2 reviews with stars are from before 2026-03-01" in told.told[0]
    assert (told.learned_rows, told.realised_rows) == (2, 1)
    assert realised(*files, UNSEEN + timedelta(days=9)) == Realised(learned=3)


def test_what_the_packaged_models_of_the_words_have_seen_is_not_unseen(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage.Reference, "load", lambda _folder: reference)
    model = RegisteredModel("m", "1", tmp_path)
    for days, unseen in ((-3, UNSEEN), (0, UNSEEN), (4, UNSEEN + timedelta(days=4))):
        since = int((UNSEEN + timedelta(days=days)).timestamp() * 1000)
        (tmp_path / ABOUT).write_text(about(["n_chars"], since=since).model_dump_json())
        found, _ = stage._reference(model)
        assert found is not None
        assert datetime.fromisoformat(found.about.unseen_from) == unseen
    (tmp_path / ABOUT).write_text("{}")
    assert "cannot be watched" in stage._reference(model)[1]


def test_rows_that_could_not_be_scored_are_not_measured(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poison row fails whoever computes its features."""
    texts = ["poison" if i % 10 == 0 else "fine" for i in range(100)]
    rows = reviews(100, short=0.2).with_columns(review_id=pl.Series(f"R{i}" for i in range(100)), text=pl.Series(texts))
    predicted = pl.when(pl.col("text") == "fine").then("prediction").alias("prediction")
    rows.drop("prediction").write_parquet(tmp_path / "reviews.parquet")
    rows.select("review_id", predicted).write_parquet(tmp_path / "scored.parquet")

    def columns(reviews: pl.DataFrame) -> Columns:
        assert "poison" not in reviews["text"].to_list()
        return as_columns(reviews.select(FEATURES))

    monkeypatch.setattr(stage.ReviewModel, "load", lambda _folder: SimpleNamespace(columns=columns))
    monkeypatch.setattr(stage.Reference, "load", lambda _folder: reference)
    part = stage.Part(tmp_path / "reviews.parquet", (tmp_path / "scored.parquet",), 0, 100)
    measured = stage.measure_parts([part], tmp_path, 1)
    assert measured is not None
    assert measured.rows == measured.counts["prediction"][0].sum() == 90
    rows.select("review_id", prediction=pl.lit(None, pl.Float32)).write_parquet(tmp_path / "scored.parquet")
    assert stage.measure_parts([part], tmp_path, 1) is None


def test_a_package_without_a_reference_or_with_one_of_another_format(tmp_path: Path) -> None:
    assert Reference.load(tmp_path) is None
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "about.json").write_text('{"format": 9}')
    with pytest.raises(Exception, match="no reference of this version"):
        Reference.load(tmp_path)
