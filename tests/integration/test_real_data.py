"""The real releases beside the project: every row is read, and cleaning leaves them clean."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from tasks import clean, sources
from tasks.core.settings import PROJECT, load_settings

DATA = PROJECT.parent / "shared" / "data"
ROWS = {"us-reviews-parquet": 49_244, "us-books-csv": 36_159, "us-appliances-tsv": 13_085}
pytestmark = pytest.mark.real


@cache
def load(folder: Path) -> tuple[pa.Table, pa.Table]:
    source = sources.discover(str(folder), "amazon-us")
    loaded = [sources.load(part, source.profile) for part in sources.plan(source)]
    return pa.concat_tables([kept for kept, _ in loaded]), pa.concat_tables([rejected for _, rejected in loaded])


@pytest.fixture(params=ROWS)
def release(request: pytest.FixtureRequest) -> str:
    if not (DATA / request.param).is_dir():
        pytest.skip(f"no real reviews: {DATA / request.param} is absent")
    return str(request.param)


def test_every_row_of_a_real_release_is_usable(release: str) -> None:
    kept, rejected = load(DATA / release)
    assert rejected.to_pylist() == []
    assert kept.num_rows == ROWS[release]


def test_ids_and_times_of_a_real_release_are_plausible(release: str) -> None:
    kept = pl.DataFrame(pl.from_arrow(load(DATA / release)[0]))
    assert kept["timestamp"].dt.year().is_between(1995, 2015).all()
    assert kept["verified"].null_count() == 0
    assert kept["user_id"].str.contains(r"^\d+$").all()
    assert (kept["text"].str.len_chars() > 0).mean() > 0.99


def test_cleaning_a_real_release_leaves_no_breaks_no_runs_of_blanks_and_is_idempotent(release: str) -> None:
    kept = pl.DataFrame(pl.from_arrow(load(DATA / release)[0]))
    config = load_settings().clean
    for column in ("title", "text"):
        cleaned = clean.tidy_text(kept[column], config)
        assert not cleaned.str.contains("(?i)<br").any()
        assert not cleaned.str.contains(r"\s\s|^\s|\s$|[\t\r\n]").any()
        assert cleaned.equals(clean.tidy_text(cleaned, config))
