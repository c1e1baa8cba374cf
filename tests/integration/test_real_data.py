"""The real releases beside the project, through ingest and clean with the profiles that come with it."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks import sources
from tasks.algorithms import pretokens
from tasks.core.sections import PROJECT
from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore
from tasks.engines import tokenizer
from tasks.stages.clean.stage import clean
from tasks.stages.clean.text import tidy_text
from tasks.stages.ingest.stage import ingest
from tasks.stages.ingest_items import ingest_items
from tasks.stages.items import items
from tests.support.stage_runs import made, settings

WORD = r"\w+(?:['’]\w+)*"
DATA = PROJECT.parent / "shared" / "data"
pytestmark = [pytest.mark.real, pytest.mark.nightly, pytest.mark.usefixtures("ray_session")]

# input: dataset profile, usable rows, rows that clean removes
RELEASES = {
    "us-reviews-parquet": ("amazon-us", 49_244, 305),
    "us-books-csv": ("amazon-us", 36_159, 302),
    "us-appliances-tsv": ("amazon-us", 13_085, 3),
    "musical-2014": ("amazon-2014", 10_261, 0),
    "joined-2014/test-reviews.txt": ("amazon-2014", 2_973, 0),
    "truncated-gz-2014/reviews*": ("amazon-2014", 6_908, 0),
    "beauty-2018": ("amazon-2018", 5_269, 1_177),
    "earphones-csv": ("docs/data.md", 14_337, 399),
}


def given(name: str) -> str:
    path = DATA / name
    if not DATA.is_dir():
        pytest.skip(f"no real reviews: {DATA} is absent")
    return str(path)


def documented_profile(folder: Path) -> str:
    """The profile that stands in the documentation, as a file."""
    (text,) = re.findall(r"```yaml\n(description:.*?)```", (PROJECT / "docs" / "data.md").read_text(), flags=re.S)
    path = folder / "documented.yaml"
    path.write_text(text)
    return str(path)


def ingested(name: str, dataset: str, folder: Path, *overrides: str) -> Snapshot:
    profile = documented_profile(folder) if dataset == "docs/data.md" else dataset
    source = sources.discover(given(name), profile)
    return made(SnapshotStore(folder / "store"), ingest, [source], settings(*overrides).ingest).snapshot


class Release:
    """One release, ingested and cleaned."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.dataset, self.rows, self.repeated = RELEASES[name]
        self.raw = ingested(name, self.dataset, folder)
        self.tidy = made(SnapshotStore(folder / "store"), clean, [self.raw], settings().clean).snapshot

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.tidy.manifest.counts)


_made: dict[str, Release] = {}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    def of(name: str) -> Release:
        given(name)
        if name not in _made:
            _made[name] = Release(name, tmp_path_factory.mktemp("release"))
        return _made[name]

    yield of
    _made.clear()


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, releases: Any) -> Release:
    return releases(request.param)


def test_every_row_is_usable_rejected_or_repeated(release: Release) -> None:
    raw, tidy = release.raw, release.tidy
    assert raw.rows() == release.rows
    assert raw.rows("rejects") == ("truncated" in release.name)
    assert raw.manifest.counts["rows_in"] == raw.rows() + raw.rows("rejects")
    assert (tidy.manifest.counts["rows_in"], tidy.manifest.counts["repeated"]) == (release.rows, release.repeated)
    assert tidy.rows() == release.rows - release.repeated


def test_ids_times_and_stars_are_plausible(release: Release) -> None:
    kept = pl.DataFrame(pl.from_arrow(release.tidy.read()))
    assert kept["timestamp"].dt.year().is_between(1995, 2019).all()
    assert kept["rating"].is_in([1.0, 2.0, 3.0, 4.0, 5.0]).all()
    assert kept["review_id"].n_unique() == len(kept)
    assert kept["user_id"].str.contains(r"^(\d+|A[0-9A-Z]+|anonymous:[0-9a-f]{24})$").all()
    assert (kept["text"].str.len_chars() > 0).mean() > 0.99
    if release.dataset == "amazon-us":
        assert kept["verified"].null_count() == 0
    if release.dataset == "amazon-2014":
        assert (kept["helpful_votes"] <= kept["total_votes"]).all()
        assert kept["total_votes"].max() > 100


def test_cleaning_leaves_no_breaks_no_runs_of_blanks_and_is_idempotent(release: Release) -> None:
    config = settings().clean
    kept = pl.DataFrame(pl.from_arrow(release.tidy.read()))
    for column in ("title", "text"):
        assert not kept[column].str.contains("(?i)<br").any()
        assert not kept[column].str.contains(r"\s\s|^\s|\s$|[\t\r\n]").any()
        assert kept[column].equals(tidy_text(kept[column], config))


def test_reviews_that_say_the_same_are_one_review(releases: Any) -> None:
    beauty = releases("beauty-2018")
    lines = gzip.decompress((DATA / "beauty-2018" / "All_Beauty_5.json.gz").read_bytes()).splitlines()
    records = [json.loads(line) for line in lines]
    fields = ("reviewerID", "asin", "unixReviewTime", "overall", "summary", "reviewText")
    said = Counter(tuple(record.get(field, "") for field in fields) for record in records)
    assert len(lines) - len({json.dumps(record, sort_keys=True) for record in records}) == 1_027
    # Besides the 1,027 some differ in pictures or votes alone.
    assert beauty.counts["repeated_ids"] == len(lines) - len(said) == 1_050
    assert releases("earphones-csv").counts["repeated_ids"] == 399


def test_votes_with_thousands_separators_and_without_any(releases: Any) -> None:
    votes = pl.DataFrame(pl.from_arrow(releases("beauty-2018").raw.read()))["helpful_votes"]
    assert 0 < votes.null_count() < len(votes)
    assert votes.max() > 50


def test_the_books_are_the_same_in_both_formats(releases: Any) -> None:
    def books(release: Release) -> pl.DataFrame:
        return pl.DataFrame(pl.from_arrow(release.raw.read())).sort("review_id")

    csv, parquet = books(releases("us-books-csv")), books(releases("us-reviews-parquet"))
    # Whoever wrote the parquet files took three texts for nothing.
    csv = csv.with_columns(pl.col("title", "text").replace({"None": "", "n/a": ""}))
    assert csv.equals(parquet.filter(parquet["review_id"].is_in(csv["review_id"].implode())))


@pytest.mark.parametrize(("pattern", "rows"), [("reviews*", 6_908), ("meta*", 7_419)])
def test_a_file_cut_off_gives_its_readable_rows_and_is_in_quarantine_once(
    pattern: str, rows: int, releases: Any, tmp_path: Path
) -> None:
    name = f"truncated-gz-2014/{pattern}"
    raw = releases(name).raw if pattern == "reviews*" else ingested_items(name, tmp_path)
    (entry,) = raw.read("quarantine").to_pylist()
    (reject,) = raw.read("rejects").to_pylist()
    assert entry["reason"].startswith("gzip data cut off after")
    assert (raw.rows(), entry["rows"]) == (rows, rows + 1)
    assert (reject["source"], reject["row"]) == (entry["source"], rows)
    assert reject["reason"] == "cut off: the file ends within this record"


def ingested_items(name: str, folder: Path) -> Snapshot:
    config = settings().ingest_items
    source = sources.discover(given(name), "amazon-2014", config, "items")
    return made(SnapshotStore(folder / "store"), ingest_items, [source], config).snapshot


@pytest.mark.parametrize("name", ["joined-2014", "joined-2014/test-products.txt"])
def test_the_products_of_a_folder_are_read_as_such_and_the_reviews_stand_aside(name: str, tmp_path: Path) -> None:
    raw = ingested_items(name, tmp_path)
    assert (raw.rows(), raw.rows("rejects")) == (595, 0)
    aside = raw.read("quarantine").to_pylist() if raw.facts.get("quarantined") else []
    assert [entry["source"] for entry in aside] == (["test-reviews.txt"] if name == "joined-2014" else [])
    catalogue = made(SnapshotStore(tmp_path / "store"), items, [raw], settings().items).snapshot
    assert (catalogue.rows(), catalogue.facts["known_prices"]) == (595, 414)


def test_the_reviews_of_a_folder_are_read_and_the_products_stand_aside(tmp_path: Path) -> None:
    raw = ingested("joined-2014", "amazon-2014", tmp_path)
    assert (raw.rows(), raw.rows("rejects")) == (2_973, 0)
    (entry,) = raw.read("quarantine").to_pylist()
    assert (entry["source"], entry["rows"]) == ("test-products.txt", 0)
    assert entry["reason"].startswith("the lines are Python literals, as in product metadata")


def test_every_review_finds_its_product(releases: Any, tmp_path: Path) -> None:
    reviewed = set(releases("joined-2014/test-reviews.txt").raw.read()["item_id"].to_pylist())
    assert reviewed <= set(ingested_items("joined-2014/test-products.txt", tmp_path).read()["item_id"].to_pylist())


@pytest.mark.slow
def test_ids_and_words_of_every_text_are_those_of_the_tokenizer_and_the_regular_expression() -> None:
    """Every line of every text file as it stands, markup and all, and every text of the parquet files."""
    given("")
    own, encode = tokenizer.load("gpt2").backend_tokenizer, tokenizer.encoder(tokenizer.recipe("gpt2").made)
    classes, checked = pretokens.Classes(pretokens.WORD_CLASSES), 0
    for texts in raw_texts():
        for rows in pretokens.chunks(texts, 4 << 20):
            chunk, checked = texts[rows], checked + rows.stop - rows.start
            assert encode(chunk).equals(tokenizer.encode(own, chunk))
            cut = pretokens.words(chunk, classes)
            words = chunk.str.extract_all(WORD)
            assert cut.counts.tolist() == words.list.len().to_list()
            assert pl.Series(cut.text).cast(pl.String).equals(words.explode(empty_as_null=False))
    assert checked > 170_000


def raw_texts() -> Iterator[pl.Series]:
    for file in sorted(f for f in DATA.rglob("*") if f.is_file() and f.name != "README.md"):
        if file.suffix == ".parquet":
            reviews = pl.read_parquet(file, columns=["review_headline", "review_body"], hive_partitioning=False)
            yield reviews.select(pl.concat_str("review_headline", "review_body", separator="\n"))[:, 0].drop_nulls()
        else:
            yield pl.Series(read_as_far_as_it_goes(file).decode(errors="replace").split("\n"))


def read_as_far_as_it_goes(file: Path) -> bytes:
    """The bytes of a file, unpacked; of one that is cut off, those before the cut."""
    if file.suffix != ".gz":
        return file.read_bytes()
    return zlib.decompressobj(wbits=31).decompress(file.read_bytes())
