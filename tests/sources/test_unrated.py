"""Reviews that are to be scored need no stars: those that nobody can use are unknown, not a reason to reject."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks import sources
from tasks.core.errors import ProfileError
from tasks.core.settings import CONF
from tasks.settings import load_settings
from tests.support.inspected_files import json_lines
from tests.support.raw_files import delimited, review, write_parquet

STARS = ["5", "0", "6", "n/a", "", "nan", None]
LOST = 4  # of them are no number from 1 to 5, and not missing


def load(folder: Path, *, rated: bool) -> tuple[list[dict[str, Any]], sources.Account]:
    config = load_settings().ingest
    source = sources.discover(str(folder), "amazon-us", config, rated=rated)
    (part,) = sources.plan(source)
    period = sources.Period.of(config.earliest, config.latest)
    loaded = sources.Loaded(part, sources.Recipe("reviews", source.profile, config, period))
    rows = [row for block in loaded.blocks() for row in block.to_pylist()]
    return rows, loaded.accounts[0]


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "numbers"])
def test_unusable_stars_are_null_and_counted_and_their_rows_are_kept(tmp_path: Path, form: str) -> None:
    stars: list[Any] = [s or "" for s in STARS] if form == "csv" else STARS
    lost = LOST
    if form == "numbers":
        stars, lost = [5.0, 0.0, 6.0, -1.0, float("inf"), float("nan"), None], 4
    rows = [review(review_id=f"R{i}", star_rating=s) for i, s in enumerate(stars)]
    if form == "csv":
        (tmp_path / "a.csv").write_text(delimited(rows))
    elif form == "json":
        (tmp_path / "a.json").write_text(json_lines(*rows))
    else:
        write_parquet(tmp_path / "a.parquet", rows)
    kept, account = load(tmp_path, rated=False)
    assert [row["rating"] for row in kept] == [5, *[None] * 6]
    assert (account.rejects, account.lost["rating"]) == ([], lost)
    kept, account = load(tmp_path, rated=True)
    assert [row["review_id"] for row in kept] == ["R0"]
    assert "rating" not in account.lost


def test_both_ways_of_reading_have_identities_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(delimited([review()]))
    config = load_settings().ingest
    rated, unrated = (sources.discover(str(tmp_path), "amazon-us", config, rated=rated) for rated in (True, False))
    assert rated.digest != unrated.digest
    assert rated.profile.model_dump() != unrated.profile.model_dump()
    assert replace(rated, profile=unrated.profile).digest == unrated.digest


def test_a_profile_does_not_say_whether_ratings_are_needed(tmp_path: Path) -> None:
    text = (CONF / "datasets" / "amazon-us.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text + "\nneeds_rating: false\n")
    with pytest.raises(ProfileError, match="needs_rating is no key of profiles"):
        sources.load_profile(str(tmp_path / "mine.yaml"))
