"""How reviews are measured by a reference: bins and slices, the same for the test slice and for a night."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tasks.settings import load_settings
from tasks.stages.evaluate.settings import EvaluateConfig
from tasks.stages.reference.layout import cells_of
from tasks.stages.reference.measures import HISTOGRAMS, OTHERS, WHOLE, Ruler, add_up, measure, ruler_of
from tasks.stages.reference.stage import cells, unseen_from

FEATURES = ["n_chars", "user_count", "verified", "text_score"]
EVALUATE = EvaluateConfig(**{**load_settings().evaluate.model_dump(), "categories": 2})


def reviews(n: int = 400, seed: int = 3) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "category": random.choice(["Books", "Toys", "Garden", "Music"], n, p=[0.5, 0.3, 0.1, 0.1]).tolist(),
            "n_chars": random.integers(1, 900, n).astype(np.float32),
            "user_count": random.poisson(0.7, n).astype(np.float32),
            "verified": pl.Series(random.choice([0, 1, None], n).tolist(), dtype=pl.Float32),
            "text_score": pl.Series([None if i % 10 == 0 else float(i % 50) / 10 for i in range(n)], dtype=pl.Float32),
            "prediction": random.uniform(1, 5, n).astype(np.float32),
        }
    )


@pytest.fixture(scope="module")
def ruler() -> Ruler:
    return ruler_of(reviews(), FEATURES, EVALUATE, bins=8)


def test_every_row_is_in_one_bin_of_each_column_and_in_one_slice_of_each_kind(ruler: Ruler) -> None:
    rows = reviews()
    measured = measure(rows, ruler)
    for column, counts in measured.counts.items():
        assert counts[0].sum() == len(rows), column
        start = 1
        for names in ruler.levels.values():
            np.testing.assert_array_equal(counts[start : start + len(names)].sum(axis=0), counts[0])
            start += len(names)
    assert (measured.levels >= 0).all()
    assert [margin.sum() for margin in measured.margins(ruler)] == [len(rows)] * len(ruler.levels)


def test_bins_hold_about_as_many_rows_and_missing_ones_have_their_own(ruler: Ruler) -> None:
    counts = measure(reviews(), ruler).counts
    assert counts["text_score"][0][-1] == 40
    assert counts["n_chars"][0][:-1].min() >= 40
    assert len(ruler.edges["verified"]) == 2  # of the values 0 and 1: few borders are different


def test_slices_are_counted_and_summed_as_polars_does(ruler: Ruler) -> None:
    rows = reviews()
    table = pl.DataFrame(pl.from_arrow(measure(rows, ruler).table(ruler)))
    assert table.columns == HISTOGRAMS.names
    short = rows.filter(pl.col("n_chars") < EVALUATE.short_chars)
    (found,) = table.filter(
        (pl.col("slice") == "text under 200 characters") & (pl.col("column") == "n_chars")
    ).to_dicts()
    assert sum(found["counts"]) == len(short)
    assert found["total"] == pytest.approx(short["n_chars"].sum())
    unknown = table.filter((pl.col("slice") == "verified unknown") & (pl.col("column") == "verified")).row(
        0, named=True
    )
    assert unknown["counts"][-1] == sum(unknown["counts"]) == rows["verified"].null_count()


def test_the_rarer_categories_are_one_slice_and_so_is_one_that_nobody_knew(ruler: Ruler) -> None:
    assert ruler.levels["category"] == ["category Books", "category Toys", OTHERS]
    strange = measure(reviews(20).with_columns(category=pl.lit("Boats")), ruler)
    assert strange.margins(ruler)[list(ruler.levels).index("category")].tolist() == [0, 0, 20]


def test_a_slice_that_the_reference_lacks_is_counted_nowhere_but_in_the_whole() -> None:
    known = ruler_of(reviews().with_columns(verified=pl.lit(1.0, pl.Float32)), FEATURES, EVALUATE, bins=4)
    measured = measure(reviews(), known)
    kind = list(known.levels).index("verified")
    rows = reviews()
    assert (measured.levels[:, kind] < 0).sum() == len(rows.filter(pl.col("verified").ne_missing(1)))
    assert measured.counts["n_chars"][0].sum() == len(rows)


def test_parts_add_up_to_the_whole(ruler: Ruler) -> None:
    rows = reviews()
    together, parts = measure(rows, ruler), add_up([measure(rows[:150], ruler), measure(rows[150:], ruler)])
    for column, counts in together.counts.items():
        np.testing.assert_array_equal(parts.counts[column], counts)
        np.testing.assert_allclose(parts.totals[column], together.totals[column])
    np.testing.assert_array_equal(parts.levels, together.levels)


def test_a_column_without_any_value_and_a_prediction_that_never_changes_are_measured(ruler: Ruler) -> None:
    rows = reviews().with_columns(text_score=pl.lit(None, pl.Float32), prediction=pl.lit(4.0, pl.Float32))
    flat = ruler_of(rows, FEATURES, EVALUATE, bins=8)
    assert flat.edges["text_score"] == []
    assert measure(rows, flat).counts["text_score"][0].tolist() == [0, len(rows)]
    assert measure(rows, flat).counts["prediction"][0].sum() == len(rows)
    assert len(set(flat.slices)) == len(flat.slices)


def test_cells_keep_rows_and_losses_of_each_combination_of_slices(ruler: Ruler) -> None:
    measured, lost = measure(reviews(), ruler), np.random.default_rng(1).exponential(size=400)
    table = pl.DataFrame(pl.from_arrow(cells(measured.levels, lost)))
    known = cells_of(table)
    assert known.rows.sum() == 400
    assert known.mean == pytest.approx(lost.mean())
    assert known.squares.sum() == pytest.approx((lost**2).sum())
    assert len({tuple(level) for level in known.levels.tolist()}) == len(table)
    assert Ruler.model_validate_json(ruler.model_dump_json()) == ruler
    assert ruler.slices[0] == WHOLE


def test_what_the_model_has_not_learned_from_begins_with_the_test_slice_or_after_all_reviews() -> None:
    ends = ("2026-01-05T10:00:00+00:00", "2026-01-07T10:00:00+00:00")
    periods = {name: {"from": ends[0], "until": until} for name, until in zip(("train", "test"), ends, strict=True)}
    borders = {"train_until": ends[0], "valid_until": ends[0]}
    assert unseen_from({"borders": borders, "periods": periods}) == ends[0]
    assert unseen_from({"borders": None, "periods": periods}) == "2026-01-07T10:00:00.001000+00:00"
