"""Ratings on other scales, ratings in words, and texts that state the stars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import ProfileError
from tasks.sources import load_profile
from tasks.sources.inspection import inspect
from tasks.sources.profiles import RatingRule
from tasks.sources.rating_guesses import guess_rating
from tasks.sources.ratings import rating_of, stated
from tests.support.accounts import read_all
from tests.support.inspected_files import as_csv, proposed, use, words
from tests.support.raw_files import delimited, review

HEAD = ["user", "item", "rating", "date", "text"]


def csv_of(tmp_path: Path, ratings: list[Any]) -> Path:
    rows = [[f"u{i % 9}", f"i{i % 4}", rating, "2019-03-01", words(i)] for i, rating in enumerate(ratings)]
    path = tmp_path / "raw" / "a.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(as_csv([HEAD, *rows]), encoding="utf-8")
    return path


def parsed(text: str | None, **rule: Any) -> float | None:
    frame = pl.DataFrame({"a": [text]}, schema={"a": pl.String})
    return frame.select(rating_of(pl.String(), pl.col("a"), RatingRule(**rule))).item()  # type: ignore[no-any-return]


class TestScales:
    @pytest.mark.parametrize(
        ("ratings", "scale", "stars"),
        [
            ([1, 4, 10, 7], "[1, 10]", [1, 7 / 3, 5, 11 / 3]),
            ([0, 5, 10, 7], "[0, 10]", [1, 3, 5, 3.8]),
            ([19, 46, 100, 0], "[0, 100]", [1.76, 2.84, 5, 1]),
            ([0.5, 2.5, 5, 4.5], "[0.5, 5]", [1, 25 / 9, 5, 41 / 9]),
            ([0.2, 0.4, 1.0, 0.6], "[0.2, 1]", [1, 2, 5, 3]),
            ([20, 40, 60, 100], "[20, 100]", [1, 2, 3, 5]),
            ([0.31, 0.4, 1.0, 0.62], "[0, 1]", [2.24, 2.6, 5, 3.48]),
        ],
    )
    def test_another_scale_is_proposed_and_mapped_to_stars(
        self, tmp_path: Path, ratings: list[float], scale: str, stars: list[float]
    ) -> None:
        path = csv_of(tmp_path, ratings * 10)
        found = proposed(path)
        assert f"rating: {{scale: {scale}}}" in (found.yaml or "")
        assert "check where the scale ends" in (found.yaml or "")
        kept, rejected = use(found, path, tmp_path)
        assert [row["rating"] for row in kept[:4]] == pytest.approx(stars)
        assert rejected == []

    def test_a_scale_whose_upper_end_is_rare_is_not_cut_off(self, tmp_path: Path) -> None:
        assert "scale: [1, 10]" in (proposed(csv_of(tmp_path, [1, 2, 3, 4, 5] * 18 + [9, 10, 8])).yaml or "")

    def test_a_few_wrong_ratings_do_not_stretch_the_scale(self, tmp_path: Path) -> None:
        found = proposed(csv_of(tmp_path, [1, 2, 3, 4, 5] * 30 + [7, 9]))
        assert "rating: {" not in (found.yaml or "")
        assert found.chosen is not None
        assert any("ratings run from 1 to 9" in w for w in found.chosen.warnings)

    def test_zeros_among_whole_stars_are_taken_for_unrated(self, tmp_path: Path) -> None:
        found = proposed(csv_of(tmp_path, [1, 2, 3, 4, 5] * 10 + [0] * 5))
        assert found.chosen is not None
        assert found.chosen.reasons == {"rating outside 1..5": 5}

    def test_a_given_profile_that_cuts_a_scale_off_is_warned_of(self, tmp_path: Path) -> None:
        path = csv_of(tmp_path, [1, 2, 3, 4, 5] * 18 + [9, 10, 8])
        columns = "{user_id: user, item_id: item, rating: rating, timestamp: date, text: text}"
        mine = tmp_path / "mine.yaml"
        mine.write_text(f'description: x\ncolumns: {columns}\ntimestamp: {{formats: ["%Y-%m-%d"]}}\n')
        chosen = inspect([str(path)], str(mine)).chosen
        assert chosen is not None
        assert any("add `rating: {scale: [1, 10]}`" in w for w in chosen.warnings)

    def test_a_scale_that_ends_below_five_is_asked_about(self, tmp_path: Path) -> None:
        chosen = proposed(csv_of(tmp_path, [1, 2, 3] * 20)).chosen
        assert chosen is not None
        assert any("no rating is above 3" in w for w in chosen.warnings)

    def test_ratings_outside_the_scale_are_rejected(self, tmp_path: Path) -> None:
        path = csv_of(tmp_path, [0, 1, 10, 11])
        columns = "{user_id: user, item_id: item, rating: rating, timestamp: date, text: text}"
        mine = tmp_path / "mine.yaml"
        start = f'description: x\ncolumns: {columns}\ntimestamp: {{formats: ["%Y-%m-%d"]}}\n'
        mine.write_text(start + "rating: {scale: [1, 10]}\n")
        assert read_all(path, str(mine)).reasons == [(0, "rating outside 1..10"), (3, "rating outside 1..10")]
        mine.write_text(start + "rating: {scale: [10, 1]}\n")
        with pytest.raises(ProfileError, match="lowest and the highest"):
            load_profile(str(mine))


class TestWords:
    @pytest.mark.parametrize(
        ("text", "stars"),
        [
            ("4.0 out of 5 stars", 4),
            ("Rated 4 out of 5", 4),
            ("4,5 von 5 Sternen", 4.5),
            ("3,0 sur 5 étoiles", 3),
            ("5つ星のうち2.0", 2),
            ("4/5", 4),
            ("4,0", 4),
            ("4.5", 4.5),
            ("2 stars", 2),
            ("Five Stars", 5),
            ("★★★★☆", 4),
            ("★★★½☆", 3.5),
            ("⭐️⭐️", 2),
            ("8/10", None),
            ("4/5/2018", None),
            ("★★★☆", None),
            ("good", None),
            ("", None),
            (None, None),
        ],
    )
    def test_what_is_read_as_stars(self, text: str | None, stars: float | None) -> None:
        assert parsed(text, words=True) == stars

    def test_words_on_another_scale(self) -> None:
        assert parsed("10/10", words=True, scale=(0, 10)) == 5
        assert parsed("4/5", words=True, scale=(0, 10)) is None

    def test_without_the_rule_words_are_no_numbers(self) -> None:
        assert [parsed(text) for text in ("4/5", "4,0", "★★★★★", "4 stars")] == [None] * 4

    @pytest.mark.parametrize(
        ("form", "name"),
        [
            ("{}.0 out of 5 stars", "rating"),
            ("{}.0 out of 5 stars", "x"),
            ("{}/5", "rating"),
            ("{}/5", "x"),
            ("{} stars", "x"),
            ("{},0", "rating"),  # only by its name: a number with a comma may be anything
        ],
    )
    def test_the_rule_is_proposed(self, tmp_path: Path, form: str, name: str) -> None:
        path = csv_of(tmp_path, [form.format(i % 5 + 1) for i in range(40)])
        path.write_text(path.read_text().replace("rating", name, 1))
        found = proposed(path)
        assert "rating: {words: true}" in (found.yaml or "")
        kept, rejected = use(found, path, tmp_path)
        assert [row["rating"] for row in kept] == [i % 5 + 1 for i in range(40)]
        assert rejected == []

    def test_signs_and_tenths_are_guessed(self) -> None:
        signs = pl.Series(["★" * n + "☆" * (5 - n) for n in (1, 3, 5)])
        none = pl.Series([None] * 3, dtype=pl.Float64)
        guess = guess_rating(none, signs)
        assert guess is not None
        assert guess.rule == RatingRule(words=True)
        tenths = guess_rating(none, pl.Series(["3/10", "9/10", "10/10"]))
        assert tenths is not None
        assert tenths.rule == RatingRule(words=True, scale=(1, 10))


class TestLeaks:
    @pytest.mark.parametrize(
        ("text", "stars"),
        [
            ("4.0 out of 5 stars Lamp", 4),
            ("Five Stars", 5),
            ("★★☆☆☆ meh", 2),
            ("3,0 von 5 Sternen Lampe", 3),
            ("4.5 stars", 4.5),
            ("one-star product", 1),
            ("I used 4 of 5 screws", None),
            ("a 1/5 of it", None),
            ("Lamp", None),
        ],
    )
    def test_what_states_the_stars(self, text: str, stars: float | None) -> None:
        assert stated(pl.Series([text]))[0] == stars

    @pytest.mark.parametrize("column", ["review_headline", "review_body"])
    def test_texts_that_give_the_label_away_are_warned_of(self, tmp_path: Path, column: str) -> None:
        rows = [
            review(review_id=f"R{i}", star_rating=i % 5 + 1, **{column: f"{i % 5 + 1}.0 out of 5 stars Lamp"})
            for i in range(30)
        ]
        (tmp_path / "a.csv").write_text(delimited(rows))
        chosen = inspect([str(tmp_path)]).chosen
        assert chosen is not None
        (warning,) = chosen.warnings
        assert "100%" in warning
        assert "remove_stated_stars" in warning

    def test_stars_that_are_not_the_reviews_own_are_no_leak(self, tmp_path: Path) -> None:
        rows = [review(review_id=f"R{i}", star_rating=i % 5 + 1, review_headline="5 star hotel") for i in range(30)]
        (tmp_path / "a.csv").write_text(delimited(rows))
        chosen = inspect([str(tmp_path)]).chosen
        assert chosen is not None
        assert chosen.warnings == []
