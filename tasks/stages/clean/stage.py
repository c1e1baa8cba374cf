"""Canonical reviews in, normalised and unique ones out, on Modin over Ray.

Title and text go through the steps of conf's `clean` section, each with a switch, in their order (`tidy_text`).
Cleaning is idempotent: cleaning clean text changes nothing. Then repeats go:

    repeated_ids     of reviews with one review_id the latest stays
    duplicates       of reviews that say the same (user, item, rating, time, title, text) one stays
    repeated_pairs   of reviews of one item by one user the latest stays

Which one stays depends on the reviews alone, not on their order nor on how they are cut into parts: the latest, and
of those with the same time the one with the greatest hash over all its columns. Repeats are found by the hashes that
ingest wrote (`tasks.stages.ingest.row_hashes`), on the text as it came. Rows keep their order. rows in = rows out +
repeated.

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

from tasks.core.digests import digest_of
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.schemas import FEW_VALUES, REVIEWS
from tasks.engines import cluster, frames
from tasks.parallel.exchange import Answer, keyed_exchange
from tasks.stages.clean.settings import CleanConfig
from tasks.stages.clean.text import tidy_text

ROWS_PER_BLOCK, ROWS_PER_BUCKET = 500_000, 1_000_000
Block = list[tuple[int, Path]]  # numbers of parts, and their files of keys
ENTRY = pa.schema([("name", pa.string()), ("size", pa.int64()), ("rows", pa.int64()), ("sha256", pa.string())])
KINDS = ("repeated_ids", "duplicates", "repeated_pairs")


@stage(version=2, config=CleanConfig, libraries=("pyarrow", "polars"))
def clean(raw: Snapshot, config: CleanConfig, out: SnapshotWriter) -> None:
    import ray

    parts = list(enumerate(raw.files()))
    repeats = find_repeats(raw, config)
    described = [d for block in cluster.gather(ray.remote(describe).remote(*block) for block in repeats) for d in block]
    how = digest_of([clean.code, config.model_dump(mode="json")])
    identities = [digest_of([how, e.sha256, d["digest"]]) for e, d in zip(raw.entries(), described, strict=True)]
    new = [i for i, name in enumerate(identities) if not out.reuse_part(name, i)]
    if new:
        gone = [refs for block, *refs in repeats for _ in block]
        written = frames.from_map(clean_part, [(*parts[i], gone[i]) for i in new], config=config, sink=out.sink)
        for i, entries in zip(new, frames.to_driver(written), strict=True):
            out.part(identities[i], [FileEntry(**entry) for entry in entries.to_pylist()])
    out.note(parts=len(identities), parts_taken_over=len(identities) - len(new))
    # Counted where they were found, not by what is left: the runner's check of the rows must be able to fail.
    removed = sum((Counter(d["kinds"]) for d in described), Counter())
    out.count(rows_in=raw.rows(), repeated=sum(removed.values()), **{kind: removed[kind] for kind in KINDS})


def find_repeats(raw: Snapshot, config: CleanConfig) -> list[tuple[Any, ...]]:
    """Blocks of parts, each with references to tables of the rows of theirs that go: `at` and `kind` (index of KINDS).

    A row is known by `at`, which is part << 32 | row.
    """
    import ray

    buckets = max(2, -(-raw.rows() // ROWS_PER_BUCKET))  # by the data alone, as all that is cut here
    blocks = blocks_of(raw)
    same_id = keyed_exchange(blocks, split_ids, repeated_ids, buckets)
    found = [(block, *refs) for block, refs in zip(blocks, same_id, strict=True)]
    if (rule := pair_rule(config)) is None:
        return found
    left = [ray.remote(without_rows).remote(*block) for block in found]
    same_pair = keyed_exchange(left, split_pairs, rule, buckets)
    return [(*block, *refs) for block, refs in zip(found, same_pair, strict=True)]


def blocks_of(raw: Snapshot) -> list[Block]:
    """Neighbouring parts whose keys one task reads: a task costs as much as reading those of 50,000 rows."""
    blocks: list[Block] = []
    rows = ROWS_PER_BLOCK
    for i, (keys, entry) in enumerate(zip(raw.files("keys"), raw.entries("keys"), strict=True)):
        if rows + (entry.rows or 0) > ROWS_PER_BLOCK:
            blocks.append([])
            rows = 0
        blocks[-1].append((i, keys))
        rows += entry.rows or 0
    return blocks


def pair_rule(config: CleanConfig) -> Answer | None:
    """What tells the repeats among the reviews of one item by one user."""
    if config.drop_repeated_pairs:
        return repeated_pairs
    return duplicates if config.drop_duplicates else None


def split_ids(block: Block, buckets: int) -> list[pa.Table]:
    """A block's rows by review_id: what decides which one of those with the same stays."""
    return _buckets(_read(block, "id"), buckets)


def without_rows(block: Block, *gone: pa.Table) -> pa.Table:
    """A block's rows by (user, item), less those that are gone."""
    keys = _read(block, "pair")
    return keys.filter(~keys["at"].is_in(_positions(gone).implode())).to_arrow()


def split_pairs(keys: pa.Table, buckets: int) -> list[pa.Table]:
    return _buckets(pl.DataFrame(pl.from_arrow(keys)), buckets)


def _read(block: Block, key: str) -> pl.DataFrame:
    names = {f"{key}_a": "a", f"{key}_b": "b"}
    frames_of_parts = []
    for part, file in block:
        keys = pl.read_parquet(file, columns=[*names, "said", "row_hash", "timestamp"], hive_partitioning=False)
        at = (part << 32) + pl.arange(len(keys), eager=True, dtype=pl.Int64)
        frames_of_parts.append(keys.rename(names).with_columns(at=at))
    return pl.concat(frames_of_parts)


def _positions(gone: Iterable[pa.Table]) -> pl.Series:
    return pl.concat([pl.Series("at", [], dtype=pl.Int64), *(pl.DataFrame(pl.from_arrow(t))["at"] for t in gone)])


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
    """For each block, the rows whose key a row has that wins over them."""
    seen = pl.concat([pl.DataFrame(pl.from_arrow(s)).with_columns(block=i) for i, s in enumerate(slices)])
    # Most keys are alone; only the others are sorted.
    shared = seen.filter(seen["a"].is_duplicated()).sort("timestamp", "row_hash", "at", descending=True)
    lost = shared.filter(~pl.struct(key).is_first_distinct()).with_columns(kind=pl.lit(kind, dtype=pl.UInt8))
    if kind == 2:
        first_said = shared.select(pl.struct([*key, "said"]).is_first_distinct()).to_series()
        again = ~first_said.filter(shared.select(~pl.struct(key).is_first_distinct()).to_series())
        lost = lost.with_columns(kind=pl.when(again).then(1).otherwise(2).cast(pl.UInt8))
    blocks = lost.sort("at").select("block", "at", "kind").partition_by("block", as_dict=True, include_key=False)
    nothing = pl.DataFrame(schema={"at": pl.Int64, "kind": pl.UInt8})
    return [blocks.get((i,), nothing).to_arrow() for i in range(len(slices))]


def describe(block: Block, *gone: pa.Table) -> list[dict[str, Any]]:
    """For each part of a block, the digest of its rows that go and how many of each kind. No row is found twice."""
    at = _positions(gone).to_numpy()
    kind = np.concatenate([t["kind"].to_numpy() for t in gone])
    described = []
    for part, _ in block:
        here = at >> 32 == part
        counts = Counter(kind[here].tolist())
        rows = np.sort(at[here] & 0xFFFFFFFF)
        described.append({"digest": sha256(rows.tobytes()).hexdigest(), "kinds": {KINDS[k]: counts[k] for k in counts}})
    return described


def clean_part(part: tuple[int, Path, list[Any]], config: CleanConfig, sink: FileSink) -> pa.Table:
    """Clean one file of raw reviews and write it; returns the entry of the file that it wrote, if it wrote one."""
    import ray

    index, file, refs = part
    reviews = pl.read_parquet(file, hive_partitioning=False)
    kept = reviews.filter(kept_rows(index, len(reviews), ray.get(refs)))
    tidied = kept.with_columns(tidy_text(kept[column], config) for column in ("title", "text"))
    table = tidied.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(REVIEWS)
    entries = (
        [sink.write_table(part_name(index), table, REVIEWS, dictionary=FEW_VALUES).model_dump()]
        if table.num_rows
        else []
    )
    return pa.Table.from_pylist(entries, schema=ENTRY)


def kept_rows(part: int, rows: int, gone: Iterable[pa.Table]) -> pl.Series:
    """Which of a part's rows stay."""
    at = _positions(gone).to_numpy()
    keep = np.ones(rows, dtype=bool)
    keep[at[at >> 32 == part] & 0xFFFFFFFF] = False
    return pl.Series(keep)
