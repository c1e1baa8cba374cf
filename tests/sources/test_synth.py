"""Made-up reviews: the same for the same seed, with exactly the dirt that is reported, and stars that fit the texts."""

from __future__ import annotations

import csv
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from tasks.core.errors import InputError
from tasks.sources.synth import CHUNK, SHARES, TEXT_ONLY, Format, SynthReport, synthesize
from tasks.sources.synth_files import SCHEMA
from tests.support import raw_files

ROWS = 12_000  # more than a chunk, so that a sample has a seam


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SynthReport]:
    out = tmp_path_factory.mktemp("synth") / "sample"
    return out, synthesize(ROWS, 7, out)


def read(out: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(f).with_columns(file=pl.lit(f.name)) for f in sorted(out.iterdir())])


def digests(out: Path) -> dict[str, str]:
    return {f.name: sha256(f.read_bytes()).hexdigest() for f in sorted(out.iterdir())}


def said(pattern: str) -> pl.Expr:
    return pl.col("review_body").str.contains(pattern)


FOUND = {
    "line_break": said("<br />"),
    "entity": said("&(#34|amp|quot|lt);"),
    "quote": said('"'),
    "blank_run": said(r"\s{3,}"),
    "tag": said("<[bi]>"),
    "accent": said(r"[\u0300-\u036f]"),
    "url": said(r"https?://|www\."),
    "emoji": said("[\U0001f300-\U0001faff\u2764]"),
    "control": said(r"[\x01-\x08\x0e-\x1f\x7f]"),
    "cjk_body": said(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"),
    "null_body": pl.col("review_body").is_null(),
    "empty_body": pl.col("review_body") == "",
    "null_headline": pl.col("review_headline").is_null(),
    "category_case": pl.col("product_category") == pl.col("product_category").str.to_lowercase(),
    "flag_case": pl.col("vine").is_in(["n", "y"]) & pl.col("verified_purchase").is_in(["n", "y"]),
    "no_customer": pl.col("customer_id").is_null(),
    "star_out_of_range": ~pl.col("star_rating").is_between(1, 5),
    "null_star": pl.col("star_rating").is_null(),
    "null_date": pl.col("review_date").is_null(),
    "exact_duplicate": ~pl.struct(SCHEMA.names).is_first_distinct(),
}


@pytest.mark.parametrize("kind", FOUND)
def test_the_file_holds_as_much_dirt_of_each_kind_as_the_report_says(
    sample: tuple[Path, SynthReport], kind: str
) -> None:
    out, report = sample
    found = int(read(out).select(FOUND[kind].sum()).item())
    assert found == report.dirt[kind]
    expected = ROWS * SHARES[kind]
    assert abs(found - expected) < 5 * expected**0.5 + 2, f"{found} rows, about {expected} wanted"


def test_every_kind_of_dirt_is_looked_for_above() -> None:
    assert {*FOUND, "reviewed_again", *TEXT_ONLY} == set(SHARES)


def test_users_review_items_again_at_a_later_date(sample: tuple[Path, SynthReport]) -> None:
    out, report = sample
    unique = read(out).unique("review_id").drop_nulls(["customer_id", "review_date"])
    first = pl.col("review_date").min().over("customer_id", "product_id")
    again = unique.select((pl.col("review_date") > first).sum()).item()
    # A busy user meets a popular item twice by chance as well.
    assert 20 < report.dirt["reviewed_again"] <= again <= report.dirt["reviewed_again"] + 15


def test_review_ids_are_unique_but_for_duplicates(sample: tuple[Path, SynthReport]) -> None:
    out, report = sample
    assert ROWS - read(out)["review_id"].n_unique() == report.dirt["exact_duplicate"]


def test_duplicates_lie_far_from_what_they_repeat(tmp_path: Path) -> None:
    synthesize(4 * CHUNK, 7, tmp_path / "out")
    chunk = read(tmp_path / "out").with_row_index().select("review_id", chunk=pl.col("index") // CHUNK)
    spread = chunk.group_by("review_id").agg(pl.col("chunk").n_unique())["chunk"]
    assert (spread > 1).sum() > 10


def test_has_the_columns_of_the_release_and_moderate_files_and_row_groups(sample: tuple[Path, SynthReport]) -> None:
    out, report = sample
    files = [pq.ParquetFile(f) for f in sorted(out.iterdir())]
    assert all(f.schema_arrow.equals(SCHEMA) for f in files)
    assert [f.name for f in sorted(out.iterdir())] == [f"part-{i:05d}.parquet" for i in range(report.files)]
    assert report.files >= 4
    assert report.bytes == sum(f.stat().st_size for f in out.iterdir())
    groups = [f.metadata.row_group(g).num_rows for f in files for g in range(f.metadata.num_row_groups)]
    assert sum(groups) == report.rows == ROWS
    assert max(groups) <= CHUNK


@pytest.mark.parametrize("rows", [1, 999, 3001, CHUNK, CHUNK + 1])
def test_writes_exactly_the_rows_asked_for_and_tells_its_progress(tmp_path: Path, rows: int) -> None:
    done: list[int] = []
    report = synthesize(rows, 1, tmp_path / "out", progress=done.append)
    assert report.rows == sum(done) == read(tmp_path / "out").height == rows


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(
    sample: tuple[Path, SynthReport], tmp_path: Path
) -> None:
    out, report = sample
    assert synthesize(ROWS, 7, tmp_path / "same") == report
    assert digests(tmp_path / "same") == digests(out)
    synthesize(ROWS, 8, tmp_path / "other")
    assert not set(digests(tmp_path / "other").values()) & set(digests(out).values())
    ids = [set(read(folder)["review_id"]) for folder in (out, tmp_path / "other")]
    assert not ids[0] & ids[1]


def test_a_smaller_sample_is_the_beginning_of_a_bigger_one(sample: tuple[Path, SynthReport], tmp_path: Path) -> None:
    synthesize(CHUNK + 500, 7, tmp_path / "small")
    small = read(tmp_path / "small").drop("file")
    assert small.equals(read(sample[0]).drop("file").head(CHUNK + 500))


@pytest.mark.parametrize("fmt", ["parquet", "csv", "tsv"])
def test_unusable_rows_are_few_and_just_those_that_ingest_rejects(tmp_path: Path, fmt: Format) -> None:
    report = synthesize(ROWS, 3, tmp_path / "out", fmt=fmt)
    kept, rejected = raw_files.read(tmp_path / "out")
    assert (len(kept), len(rejected)) == (ROWS - report.unusable, report.unusable)
    assert 0 < report.unusable < 0.01 * ROWS


def as_text(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col(c).cast(pl.String).fill_null("") for c in SCHEMA.names)


@pytest.mark.parametrize("fmt", ["csv", "tsv"])
def test_text_formats_say_what_parquet_says_but_for_stars_and_dates_in_words(
    sample: tuple[Path, SynthReport], tmp_path: Path, fmt: Format
) -> None:
    report = synthesize(ROWS, 7, tmp_path / "out", fmt=fmt)
    lines: list[list[str]] = []
    for path in sorted((tmp_path / "out").iterdir()):
        with path.open(encoding="utf-8", newline="" if fmt == "csv" else "\n") as file:
            header, *data = csv.reader(file) if fmt == "csv" else [line[:-1].split("\t") for line in file]
        assert header == SCHEMA.names
        lines += data
    got = pl.DataFrame(lines, schema=dict.fromkeys(SCHEMA.names, pl.String), orient="row")
    wanted = as_text(read(sample[0]))
    if fmt == "tsv":
        wanted = wanted.with_columns(pl.col("review_body").str.replace_all("\n", " "))
    stars, dates = got["star_rating"] == "five", got["review_date"] == "not a date"
    assert (stars.sum(), dates.sum()) == (report.dirt["star_in_words"], report.dirt["date_in_words"])
    assert stars.any()
    assert dates.any()
    typed = [c for c in SCHEMA.names if c not in ("star_rating", "review_date")]
    assert got.select(typed).equals(wanted.select(typed))
    assert got.filter(~stars)["star_rating"].equals(wanted.filter(~stars)["star_rating"])
    assert got.filter(~dates)["review_date"].equals(wanted.filter(~dates)["review_date"])


def test_stars_are_spread_as_in_the_release(sample: tuple[Path, SynthReport]) -> None:
    stars = read(sample[0])["star_rating"]
    shares = [(stars == s).mean() for s in range(1, 6)]
    assert shares == pytest.approx([0.08, 0.06, 0.09, 0.19, 0.58], abs=0.03)


def test_the_text_tells_the_stars_of_later_reviews_but_not_all_of_them(sample: tuple[Path, SynthReport]) -> None:
    rows = read(sample[0]).unique("review_id").drop_nulls(["star_rating", "review_date"])
    rows = rows.filter(pl.col("star_rating").is_between(1, 5)).sort("review_date", "review_id")
    text = (rows["review_headline"].fill_null("") + " " + rows["review_body"].fill_null("")).to_list()
    stars, cut = rows["star_rating"].to_numpy().astype(float), int(0.8 * len(rows))
    tfidf = TfidfVectorizer(min_df=3)
    model = Ridge(alpha=1).fit(tfidf.fit_transform(text[:cut]), stars[:cut])
    rmse = np.sqrt(np.mean((model.predict(tfidf.transform(text[cut:])) - stars[cut:]) ** 2))
    of_mean = np.sqrt(np.mean((stars[:cut].mean() - stars[cut:]) ** 2))
    assert 0.5 < rmse / of_mean < 0.8


@pytest.mark.parametrize("who", ["customer_id", "product_id"])
def test_users_and_items_have_their_own_means_and_some_are_busy(sample: tuple[Path, SynthReport], who: str) -> None:
    rows = read(sample[0]).unique("review_id").drop_nulls([who, "star_rating"])
    busy = rows.group_by(who).agg(pl.len(), mean=pl.col("star_rating").mean()).filter(pl.col("len") >= 8)
    assert busy["len"].max() > 10
    by_chance = (rows["star_rating"].var() * (1 / busy["len"]).mean()) ** 0.5
    assert busy["mean"].std() > 1.2 * by_chance


@pytest.mark.parametrize(("rows", "seed"), [(0, 1), (-5, 1), (10, -1)])
def test_refuses_sizes_and_seeds_that_make_no_sense(tmp_path: Path, rows: int, seed: int) -> None:
    with pytest.raises(InputError, match="at least 1 row"):
        synthesize(rows, seed, tmp_path / "out")


def test_replaces_an_older_sample_only_when_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(9000, 1, out)
    older = digests(out)
    with pytest.raises(InputError, match=r"already holds part-00000\.parquet"):
        synthesize(1500, 2, out)
    assert digests(out) == older
    assert synthesize(1500, 2, out, overwrite=True).files == len(digests(out)) == 2


def test_never_removes_files_that_it_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"already holds thesis\.txt"):
        synthesize(100, 1, tmp_path, overwrite=True)
    with pytest.raises(InputError, match="a file, not a folder"):
        synthesize(100, 1, tmp_path / "thesis.txt", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_run_that_fails_half_way_leaves_nothing_and_spoils_nothing(tmp_path: Path) -> None:
    def interrupt(_rows: int) -> None:
        raise KeyboardInterrupt

    synthesize(100, 1, tmp_path / "older")
    before = digests(tmp_path / "older")
    for name in ("older", "new"):
        with pytest.raises(KeyboardInterrupt):
            synthesize(5000, 1, tmp_path / name, overwrite=True, progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["older"]
    assert digests(tmp_path / "older") == before


def test_two_runs_never_write_one_sample_at_a_time(tmp_path: Path) -> None:
    def start_another(_rows: int) -> None:
        with pytest.raises(InputError, match="another run is writing"):
            synthesize(100, 2, tmp_path / "out")

    assert synthesize(100, 1, tmp_path / "out", progress=start_another).rows == 100
