"""Late stars are joined with the predictions of one night, or of several at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.domain.targets import TARGETS
from tasks.stages.watch import realised as module
from tasks.stages.watch.realised import Realised, realised, realised_each

UNSEEN = datetime(2026, 3, 1, tzinfo=UTC)
F32 = {"rating": pl.Float32, "prediction": pl.Float32}


def test_stars_are_joined_by_name_and_names_of_several_reviews_are_passed_over(tmp_path: Path) -> None:
    stars = pl.DataFrame({"review_id": ["a", "b", "b", "c", "d"], "rating": [5.0, 1.0, 2.0, None, 3.0]})
    stars = stars.with_columns(timestamp=pl.lit(UNSEEN))
    stars.cast({"rating": pl.Float32}).write_parquet(tmp_path / "rated.parquet")
    predicted = pl.DataFrame({"review_id": ["a", "b", "c", "d", "e"], "prediction": [4.0, 1.0, 1.0, 3.0, 2.0]})
    predicted.cast({"prediction": pl.Float32}).write_parquet(tmp_path / "scored.parquet")
    files = [tmp_path / "rated.parquet"], [tmp_path / "scored.parquet"]
    found = realised(*files, TARGETS["rating"], UNSEEN)
    assert (found.rows, found.mean) == (2, pytest.approx(0.5))
    assert realised([], files[1], TARGETS["rating"], UNSEEN) == Realised()
    classes = predicted.select(
        "review_id", *(pl.lit(0.2).alias(f"prediction_{k}") for k in range(1, 6)), prediction=3.0
    )
    classes.write_parquet(tmp_path / "classes.parquet")
    of_classes = realised(files[0], [tmp_path / "classes.parquet"], TARGETS["stars"], UNSEEN)
    assert of_classes.mean == pytest.approx(float(np.log(5)))


def test_stars_are_joined_with_several_nights_of_which_one_cannot_be_read(tmp_path: Path) -> None:
    stars = pl.DataFrame({"review_id": ["a", "b", "c"], "rating": [5.0, 1.0, None]}, schema_overrides=F32)
    stars = stars.with_columns(timestamp=pl.lit(UNSEEN))
    stars.write_parquet(tmp_path / "rated.parquet")
    stars.with_columns(rating=pl.lit(None, pl.Float32)).write_parquet(tmp_path / "unrated.parquet")
    for name in ("a", "b"):
        night = pl.DataFrame({"review_id": [name, "c"], "prediction": [3.0, 3.0]}, schema_overrides=F32)
        night.write_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "damaged.parquet").write_text("no parquet")
    nights = [([tmp_path / f"{name}.parquet"], UNSEEN) for name in ("a", "damaged", "b", "gone")]
    found = realised_each([tmp_path / "rated.parquet"], [*nights, ([], UNSEEN)], TARGETS["rating"])
    assert [type(one) for one in found] == [Realised, str, Realised, str, Realised]
    assert [one.rows for one in found if isinstance(one, Realised)] == [1, 1, 0]
    assert realised_each([tmp_path / "unrated.parquet"], nights[:1], TARGETS["rating"]) == [Realised()]


def test_stars_of_large_nights_are_joined_night_by_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stars = pl.DataFrame({"review_id": list("abcdef"), "rating": [5.0] * 6}, schema_overrides=F32)
    stars.with_columns(timestamp=pl.lit(UNSEEN)).write_parquet(tmp_path / "rated.parquet")
    for name in ("ab", "cde", "f"):
        scored = pl.DataFrame({"review_id": list(name), "prediction": [3.0] * len(name)}, schema_overrides=F32)
        scored.write_parquet(tmp_path / f"{name}.parquet")
    nights = [([tmp_path / f"{name}.parquet"], UNSEEN) for name in ("ab", "gone", "cde", "f")]
    held: list[int] = []

    def counted(rated: Any, some: Any, target: Any) -> Any:
        held.append(sum(night.rows for night in some))
        return joined(rated, some, target)

    joined = module._joined
    monkeypatch.setattr(module, "_joined", counted)
    for limit, together in ((1, [2, 3, 1]), (4, [5, 1]), (9, [6])):
        monkeypatch.setattr(module, "HELD_ROWS", limit)
        held.clear()
        found = realised_each([tmp_path / "rated.parquet"], nights, TARGETS["rating"])
        assert [one.rows if isinstance(one, Realised) else "gone" for one in found] == [2, "gone", 3, 1]
        assert held == together
