"""Canonical reviews in, normalised and unique ones out, on Modin over Ray.

Title and text go through the steps of conf's `clean` section, each with a switch, in their order (`tidy_text`).
Cleaning is idempotent: cleaning clean text changes nothing. Then repeats go:

    repeated_ids     of reviews with one review_id the latest stays
    duplicates       of reviews that say the same (user, item, rating, time, title, text) one stays
    repeated_pairs   of reviews of one item by one user the latest stays

Which one stays depends on the reviews alone, not on their order nor on how they are cut into parts: the latest, and
of those with the same time the one with the greatest hash over all its columns. Repeats are found by the hashes that
ingest wrote (`tasks.row_keys`), on the text as it came. Rows keep their order. rows in = rows out + repeated.

A part whose reviews and repeats are those of an earlier snapshot is taken over from it.

    raymill run --until clean
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.clean_text import tidy_text
from tasks.core.digests import digest_of
from tasks.core.schemas import REVIEWS
from tasks.core.settings import CleanConfig
from tasks.core.snapshots import FileEntry, FileSink, Snapshot, SnapshotWriter, part_name
from tasks.core.stage import stage
from tasks.engines import cluster, frames
from tasks.parallel.exchange import Answer, keyed_exchange

ROWS_PER_BUCKET = 1_000_000
KINDS = ("repeated_ids", "duplicates", "repeated_pairs")


@stage(version=2, libraries=("pyarrow", "polars"))
def clean(raw: Snapshot, config: CleanConfig, out: SnapshotWriter) -> None:
    import ray

    repeats = find_repeats(raw, config)
    described = cluster.gather(ray.remote(describe_repeats).remote(*refs) for refs in repeats)
    how = digest_of([clean.code, config.model_dump(mode="json")])
    identities = [digest_of([how, e.sha256, d["digest"]]) for e, d in zip(raw.entries(), described, strict=True)]
    new = [i for i, name in enumerate(identities) if not out.carry(name, i)]
    if new:
        parts = [(i, raw.files()[i], repeats[i]) for i in new]
        written = frames.from_map(clean_part, parts, config=config, sink=out.sink)
        for i, rows in zip(new, frames.collect(written, pa.Table.to_pylist), strict=True):
            out.part(identities[i], [FileEntry(**row) for row in rows if row["name"]])
    out.note(parts=len(identities), parts_taken_over=len(identities) - len(new))
    # Counted where they were found, not by what is left: the runner's check of the rows must be able to fail.
    removed = sum((Counter(d["kinds"]) for d in described), Counter())
    out.count(rows_in=raw.rows(), repeated=sum(removed.values()), **{kind: removed[kind] for kind in KINDS})


def find_repeats(raw: Snapshot, config: CleanConfig) -> list[list[Any]]:
    """For each part, references to tables of the rows that go: `row` and `kind` (index into KINDS)."""
    import ray

    buckets = max(2, -(-raw.rows() // ROWS_PER_BUCKET))  # by the data alone
    parts = raw.files("keys")
    same_id = keyed_exchange(parts, split_ids, repeated_ids, buckets)
    if (rule := pair_rule(config)) is None:
        return same_id
    survivors = ray.remote(without_rows)
    left = [survivors.remote(part, *refs) for part, refs in zip(parts, same_id, strict=True)]
    same_pair = keyed_exchange(left, split_pairs, rule, buckets)
    return [[*ids, *pairs] for ids, pairs in zip(same_id, same_pair, strict=True)]


def pair_rule(config: CleanConfig) -> Answer | None:
    """What tells the repeats among the reviews of one item by one user."""
    if config.drop_repeated_pairs:
        return repeated_pairs
    return duplicates if config.drop_duplicates else None


def split_ids(part: Path, buckets: int) -> list[pa.Table]:
    """A part's rows by review_id: what decides which one of those with the same stays."""
    keys = pl.read_parquet(part, columns=["id_a", "id_b", "said", "row_hash", "timestamp"], hive_partitioning=False)
    return _buckets(keys.rename({"id_a": "a", "id_b": "b"}).with_row_index("row"), buckets)


def without_rows(part: Path, *gone: pa.Table) -> pa.Table:
    """A part's rows by (user, item), less those that are gone."""
    keys = pl.read_parquet(part, columns=["pair_a", "pair_b", "said", "row_hash", "timestamp"], hive_partitioning=False)
    return keys.with_row_index("row").filter(kept_rows(len(keys), gone)).to_arrow()


def split_pairs(keys: pa.Table, buckets: int) -> list[pa.Table]:
    frame = pl.DataFrame(pl.from_arrow(keys))
    return _buckets(frame.rename({"pair_a": "a", "pair_b": "b"}), buckets)


def _buckets(keys: pl.DataFrame, buckets: int) -> list[pa.Table]:
    home = keys["a"] % buckets
    return [keys.filter(home == i).to_arrow() for i in range(buckets)]


def repeated_ids(slices: list[pa.Table]) -> list[pa.Table]:
    return _losers(slices, ["a", "b"], kind=0)


def duplicates(slices: list[pa.Table]) -> list[pa.Table]:
    return _losers(slices, ["a", "b", "said"], kind=1)


def repeated_pairs(slices: list[pa.Table]) -> list[pa.Table]:
    """Of each pair the latest stays. One that says the same as another of the pair is counted as a duplicate."""
    return _losers(slices, ["a", "b"], kind=2)


def _losers(slices: list[pa.Table], key: list[str], kind: int) -> list[pa.Table]:
    """For each part, the rows whose key a row has that wins over them."""
    seen = pl.concat(
        [pl.DataFrame(pl.from_arrow(s)).with_columns(part=pl.lit(i, dtype=pl.UInt32)) for i, s in enumerate(slices)]
    )
    # Most keys are alone; only the others are sorted.
    shared = seen.filter(seen["a"].is_duplicated()).sort("timestamp", "row_hash", "part", "row", descending=True)
    lost = shared.filter(~pl.struct(key).is_first_distinct()).with_columns(kind=pl.lit(kind, dtype=pl.UInt8))
    if kind == 2:
        first_said = shared.select(pl.struct([*key, "said"]).is_first_distinct()).to_series()
        again = ~first_said.filter(shared.select(~pl.struct(key).is_first_distinct()).to_series())
        lost = lost.with_columns(kind=pl.when(again).then(1).otherwise(2).cast(pl.UInt8))
    parts = lost.sort("row").partition_by("part", as_dict=True)
    nothing = pl.DataFrame(schema={"row": pl.UInt32, "kind": pl.UInt8})
    return [parts.get((i,), nothing).select("row", "kind").to_arrow() for i in range(len(slices))]


def describe_repeats(*gone: pa.Table) -> dict[str, Any]:
    """Digest of the rows of a part that go, and how many of each kind. No row is found twice."""
    rows = np.sort(np.concatenate([t["row"].to_numpy() for t in gone]).astype(np.int64))
    kinds = Counter(int(k) for t in gone for k in t["kind"].to_numpy())
    return {"digest": sha256(rows.tobytes()).hexdigest(), "kinds": {KINDS[k]: n for k, n in kinds.items()}}


def clean_part(part: tuple[int, Path, list[Any]], config: CleanConfig, sink: FileSink) -> pa.Table:
    """Clean one file of raw reviews and write it; returns the entry of the file that it wrote."""
    import ray

    index, file, refs = part
    reviews = pl.read_parquet(file, hive_partitioning=False)
    kept = reviews.filter(kept_rows(len(reviews), ray.get(refs)))
    tidied = kept.with_columns(tidy_text(kept[column], config) for column in ("title", "text"))
    table = tidied.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(REVIEWS)
    entry = sink.write_table(part_name(index), table, REVIEWS).model_dump() if table.num_rows else {}
    return pa.Table.from_pylist([entry], schema=ENTRY)


ENTRY = pa.schema([("name", pa.string()), ("size", pa.int64()), ("rows", pa.int64()), ("sha256", pa.string())])


def kept_rows(rows: int, gone: Iterable[pa.Table]) -> pl.Series:
    """Which of a part's rows stay."""
    keep = np.ones(rows, dtype=bool)
    for table in gone:
        keep[table["row"].to_numpy()] = False
    return pl.Series(keep)
