"""Stages from raw files to slices on a real Ray session, checked by hand or against the obvious computation."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest

from tasks import sources
from tasks.core.errors import InputError, TooManyRejects
from tasks.core.stage import StageRun
from tasks.core.storage.store import SnapshotStore
from tasks.engines import tokenizer
from tasks.parallel import time_borders
from tasks.stages.clean.stage import clean
from tasks.stages.ingest.stage import ingest
from tasks.stages.split import SLICES, split
from tasks.stages.tokenize import tokenize
from tests.support.stage_runs import made, nothing_alike, put_features, put_reviews, settings

pytestmark = pytest.mark.usefixtures("ray_session")
DAY = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)


def day(n: float) -> dt.datetime:
    return DAY + dt.timedelta(days=n)


def raw_rows(n: int) -> list[dict[str, Any]]:
    """Rows with the columns of amazon-us; every tenth has no user, every seventh says what the one before says."""
    rows = []
    for i in range(n):
        told = i - 1 if i % 7 == 6 else i
        row = {
            "customer_id": "" if i % 10 == 9 else f"c{told % 5}",
            "review_id": f"R{i}",
            "product_id": f"p{told % 3}",
            "star_rating": str(1 + told % 5),
            "review_headline": "Head &amp; line",
            "review_body": f"Number {told}<br />of  many",
            "review_date": f"2015-01-{1 + told % 28:02}",
        }
        rows.append(row)
    return rows


class TestIngestAndClean:
    @pytest.fixture
    def source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sources.Source:
        monkeypatch.setattr("tasks.sources.partitions.PART_MIN_BYTES", 1)
        folder = tmp_path / "input"
        folder.mkdir()
        table = pa.Table.from_pylist(raw_rows(60))
        pa_csv.write_csv(table.slice(0, 25), folder / "a.csv")
        pa.parquet.write_table(table.slice(25), folder / "b.parquet", row_group_size=10)
        return sources.discover(str(folder), "amazon-us")

    def test_every_row_is_accounted_for_and_order_is_kept(self, source: sources.Source, store: SnapshotStore) -> None:
        config = settings("ingest.min_rows=10", "ingest.max_reject_fraction=0.2")
        raw = made(store, ingest, [source], config.ingest).snapshot
        assert (raw.manifest.counts["rows_in"], raw.rows(), raw.rows("rejects")) == (60, 54, 6)
        assert [r["row"] for r in raw.read("rejects").to_pylist()] == [9, 19, 4, 14, 24, 34]
        tidy = made(store, clean, [raw], settings("clean.drop_repeated_pairs=false").clean).snapshot
        usable = [i for i in range(60) if i % 10 != 9]
        again = [i for i in usable if i % 7 == 6 and i - 1 in usable]
        kept = [int(r.removeprefix("R")) for r in tidy.read()["review_id"].to_pylist()]
        assert kept == sorted(kept)
        # Of two that say the same one stays, whichever.
        assert sorted(i - (i in again) for i in kept) == [i for i in usable if i not in again]
        counts = {"repeated_ids": 0, "duplicates": len(again), "repeated_pairs": 0}
        assert tidy.manifest.counts == {"rows_in": 54, "repeated": len(again), **counts}
        assert set(tidy.read()["title"].to_pylist()) == {"Head & line"}
        assert tidy.read()["text"].to_pylist()[0] == "Number 0 of many"

    def test_a_folder_that_has_grown_gives_what_it_would_from_scratch_and_old_parts_are_taken_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tasks.sources.partitions.PART_MIN_BYTES", 1)
        folder = tmp_path / "input"
        folder.mkdir()
        table = pa.Table.from_pylist(raw_rows(90))
        config = settings("ingest.min_rows=10", "ingest.max_reject_fraction=1")

        def run(store: SnapshotStore) -> list[StageRun]:
            ingested = made(store, ingest, [sources.discover(str(folder), "amazon-us")], config.ingest)
            return [ingested, made(store, clean, [ingested.snapshot], config.clean)]

        grown = SnapshotStore(tmp_path / "grown")
        last: list[StageRun] = []
        # The file added last sorts in the middle and holds later reviews of users and items seen before.
        for name, first in (("a.parquet", 0), ("d.csv", 30), ("b.csv", 60)):
            if name.endswith("csv"):
                pa_csv.write_csv(table.slice(first, 30), folder / name)
            else:
                pa.parquet.write_table(table.slice(first, 30), folder / name, row_group_size=10)
            before, last = last, run(grown)
        fresh = run(SnapshotStore(tmp_path / "fresh"))
        assert [r.snapshot.digest for r in last] == [r.snapshot.digest for r in fresh]
        assert [r.notes["parts_taken_over"] for r in fresh] == [0, 0]
        assert last[0].notes["parts_taken_over"] == before[0].notes["parts"] > 3
        assert 0 < last[1].notes["parts_taken_over"] < last[1].notes["parts"]

    def test_too_many_unusable_rows_fail_the_stage_and_name_the_reason(
        self, source: sources.Source, store: SnapshotStore
    ) -> None:
        with pytest.raises(TooManyRejects, match="no user_id: 6"):
            made(store, ingest, [source], settings("ingest.min_rows=10", "ingest.max_reject_fraction=0.05").ingest)
        assert list(store) == []
        assert not list(store.root.glob("*/*/attempt-*"))


UNICODE = [
    "Café naïve",
    "灯がとても明るい。",
    "👍🏽 ok 👨\u200d👩\u200d👧",
    "שלום عالم",
    "it's I'll we've 1234,5",
    "…—“quoted”",
]


@pytest.fixture(scope="module")
def theirs() -> Any:
    """GPT-2's tokenizer, used as transformers' users do."""
    return tokenizer.load("gpt2")


class TestTokenize:
    def test_ids_are_those_of_transformers_own_encode(self, store: SnapshotStore, theirs: Any) -> None:
        texts = [*UNICODE, "", "two  blanks", " lead and trail ", "tab\tnew\nline"]
        rows = [{"timestamp": day(i), "text": t, "title": "Title" if i % 2 else ""} for i, t in enumerate(texts)]
        reviews = put_reviews(store, rows[:4], rows[4:])
        done = made(store, tokenize, [reviews], settings().tokenize).snapshot
        said = [f"Title\n{t}" if i % 2 else t for i, t in enumerate(texts)]
        assert done.read().to_pylist() == [
            {"review_id": f"R{i}", "input_ids": ids, "n_tokens": len(ids)}
            for i, ids in enumerate(theirs.encode(t) for t in said)
        ]
        assert done.manifest.counts == {"tokens": sum(len(theirs.encode(t)) for t in said), "truncated": 0}
        assert [e.rows for e in done.entries()] == [4, len(texts) - 4]

    def test_texts_longer_than_max_tokens_are_cut_and_counted(self, store: SnapshotStore, theirs: Any) -> None:
        texts = ["one", "one two three", "one two three four five"]
        reviews = put_reviews(store, [{"timestamp": day(i), "text": t} for i, t in enumerate(texts)])
        done = made(store, tokenize, [reviews], settings("tokenize.max_tokens=3").tokenize).snapshot
        assert done.read()["input_ids"].to_pylist() == [theirs.encode(t)[:3] for t in texts]
        assert done.read()["n_tokens"].to_pylist() == [1, 3, 3]
        assert done.manifest.counts == {"tokens": 7, "truncated": 1}


class TestSplit:
    def table(self, store: SnapshotStore, days: list[int], parts: int = 3) -> Any:
        rows = [{"timestamp": day(d)} for d in days]
        size = -(-len(days) // parts)
        return put_features(store, *(rows[i : i + size] for i in range(0, len(rows), size)))

    def test_slices_are_strictly_later_and_hold_every_row_once(self, store: SnapshotStore) -> None:
        days = np.random.default_rng(3).permutation(np.repeat(np.arange(60), 7)).tolist()
        done = made(store, split, [self.table(store, days), nothing_alike(store)], settings().split).snapshot
        times = {name: [t.timestamp() for t in done.read(name)["timestamp"].to_pylist()] for name in SLICES}
        assert max(times["train"]) < min(times["valid"])
        assert max(times["valid"]) < min(times["test"])
        ids = Counter(i for name in SLICES for i in done.read(name)["review_id"].to_pylist())
        assert ids == Counter(f"R{i}" for i in range(len(days)))
        rows = done.facts["rows"]
        assert rows == {name: len(t) for name, t in times.items()}
        assert abs(rows["train"] - 0.8 * 420) <= 7  # a moment has seven rows and is never parted
        assert abs(rows["test"] - 0.1 * 420) <= 14
        until = dt.datetime.fromisoformat(done.facts["borders"]["train_until"]).timestamp()
        assert max(times["train"]) < until <= min(times["valid"])

    def test_a_moment_with_most_of_the_rows_stays_whole(self, store: SnapshotStore) -> None:
        days = [0] * 300 + [1] * 30 + [2] * 30
        done = made(store, split, [self.table(store, days), nothing_alike(store)], settings().split).snapshot
        assert done.facts["rows"] == {"train": 300, "valid": 30, "test": 30}

    @pytest.mark.parametrize("days", [[5] * 400, list(range(40)), [0] * 390 + [1] * 10])
    def test_too_few_rows_in_a_slice_are_refused_and_nothing_is_left(
        self, store: SnapshotStore, days: list[int]
    ) -> None:
        table = self.table(store, days)
        with pytest.raises(InputError, match=r"too few reviews to split by time.*each needs 20"):
            made(store, split, [table, nothing_alike(store)], settings().split)
        assert [s.stage for s in store] == ["features", "near-duplicates"]
        assert not list((store.root / "split").glob("*/attempt-*"))

    def test_a_border_has_the_share_below_it(self, store: SnapshotStore) -> None:
        files = self.table(store, list(range(100))).files()
        cuts = time_borders.borders(files, [0.25, 0.5, 0.9])
        times = np.concatenate([time_borders.timestamps_ms(f) for f in files])
        assert [int((times < c).sum()) for c in cuts] == [25, 50, 90]
