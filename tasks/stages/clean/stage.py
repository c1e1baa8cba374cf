"""Normalise canonical reviews and remove repeats, on Modin over Ray.

Title and text go through the steps of conf's `clean` section in order, each with a switch (`tidy_text`). Cleaning is
idempotent: cleaning clean text changes nothing. Then repeats are removed:

    repeated_ids     reviews with the same review_id: the latest stays
    duplicates       reviews with the same user, item, rating, time, title and text: one stays
    repeated_pairs   reviews of the same item by the same user: the latest stays

Which one stays depends on the reviews alone, not on their order or on the cut into parts: the latest, and among equal
times the one with the greatest hash over all its columns. Repeats are found by the hashes that ingest wrote
(`tasks.stages.ingest.row_hashes`), on the raw text. Rows keep their order. rows in = rows out + repeated.

A part whose reviews and repeats equal those of an earlier snapshot is reused from it.

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
from tasks.core.part_files import read_part
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.domain.schemas import FEW_VALUES, REVIEWS
from tasks.engines import cluster, frames
from tasks.parallel.exchange import Answer, by_block, hash_partition, keyed_exchange, stacked
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
    out.fact(tidied=config.model_dump(exclude={"drop_duplicates", "drop_repeated_pairs"}))  # new reviews will be, too
    # Counted where repeats are found, not from the remaining rows: the runner's check of the rows must be able to fail.
    removed = sum((Counter(d["kinds"]) for d in described), Counter())
    out.count(rows_in=raw.rows(), repeated=sum(removed.values()), **{kind: removed[kind] for kind in KINDS})


def find_repeats(raw: Snapshot, config: CleanConfig) -> list[tuple[Any, ...]]:
    """Find repeats; returns blocks of parts, each with references to tables of the rows to remove: `at` and `kind`.

    `at` is part << 32 | row; `kind` is an index of KINDS.
    """
    import ray

    buckets = max(2, -(-raw.rows() // ROWS_PER_BUCKET))  # by the data alone, like every cut
    blocks = blocks_of(raw)
    same_id = keyed_exchange(blocks, split_ids, repeated_ids, buckets)
    by_id = [(block, *refs) for block, refs in zip(blocks, same_id, strict=True)]
    if (rule := pair_rule(config)) is None:
        return by_id
    left = [ray.remote(without_rows).remote(*block) for block in by_id]
    same_pair = keyed_exchange(left, split_pairs, rule, buckets)
    return [(*block, *refs) for block, refs in zip(by_id, same_pair, strict=True)]


def blocks_of(raw: Snapshot) -> list[Block]:
    """Group neighbouring parts so that one task reads their keys: starting a task takes as long as reading 50,000."""
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
    """Return the function that finds repeats among the reviews of one item by one user."""
    if config.drop_repeated_pairs:
        return repeated_pairs
    return duplicates if config.drop_duplicates else None


def split_ids(block: Block, buckets: int) -> list[pa.Table]:
    """Hash-partition a block's rows by review_id, with the columns that decide which of equal ones stays."""
    return hash_partition(_read(block, "id"), pl.col("a"), buckets)


def without_rows(block: Block, *gone: pa.Table) -> pa.Table:
    """Hash-partition a block's rows by (user, item), without the removed ones."""
    keys = _read(block, "pair")
    return keys.filter(~keys["at"].is_in(_positions(gone).implode())).to_arrow()


def split_pairs(keys: pa.Table, buckets: int) -> list[pa.Table]:
    return hash_partition(pl.DataFrame(pl.from_arrow(keys)), pl.col("a"), buckets)


def _read(block: Block, key: str) -> pl.DataFrame:
    names = {f"{key}_a": "a", f"{key}_b": "b"}
    frames_of_parts = []
    for part, file in block:
        keys = read_part(file, [*names, "said", "row_hash", "timestamp"])
        at = (part << 32) + pl.arange(len(keys), eager=True, dtype=pl.Int64)
        frames_of_parts.append(keys.rename(names).with_columns(at=at))
    return pl.concat(frames_of_parts)


def _positions(gone: Iterable[pa.Table]) -> pl.Series:
    return pl.concat([pl.Series("at", [], dtype=pl.Int64), *(pl.DataFrame(pl.from_arrow(t))["at"] for t in gone)])


def repeated_ids(slices: list[pa.Table]) -> list[pa.Table]:
    return _losers(slices, ["a", "b"], kind=0)


def duplicates(slices: list[pa.Table]) -> list[pa.Table]:
    return _losers(slices, ["a", "b", "said"], kind=1)


def repeated_pairs(slices: list[pa.Table]) -> list[pa.Table]:
    """Find all but the latest review of each pair. One with the same content as another counts as a duplicate."""
    return _losers(slices, ["a", "b"], kind=2)


def _losers(slices: list[pa.Table], key: list[str], kind: int) -> list[pa.Table]:
    """Return, for each block, the rows that lose against another row with the same key."""
    seen = stacked(slices)
    # Most keys are unique; only the others are sorted.
    shared = seen.filter(seen["a"].is_duplicated()).sort("timestamp", "row_hash", "at", descending=True)
    lost = shared.filter(~pl.struct(key).is_first_distinct()).with_columns(kind=pl.lit(kind, dtype=pl.UInt8))
    if kind == 2:
        first_said = shared.select(pl.struct([*key, "said"]).is_first_distinct()).to_series()
        again = ~first_said.filter(shared.select(~pl.struct(key).is_first_distinct()).to_series())
        lost = lost.with_columns(kind=pl.when(again).then(1).otherwise(2).cast(pl.UInt8))
    return by_block(lost.sort("at").select("block", "at", "kind"), len(slices))


def describe(block: Block, *gone: pa.Table) -> list[dict[str, Any]]:
    """Return, for each part of a block, the digest of its removed rows and their number by kind. None counts twice."""
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
    """Clean one file of raw reviews and write it; returns the entry of the written file, if any."""
    import ray

    index, file, refs = part
    reviews = read_part(file)
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
    """Mark the rows of a part that stay."""
    at = _positions(gone).to_numpy()
    keep = np.ones(rows, dtype=bool)
    keep[at[at >> 32 == part] & 0xFFFFFFFF] = False
    return pl.Series(keep)
