"""Group the clean reviews whose texts are nearly the same.

Two texts are near-duplicates if their sets of three-word shingles have a Jaccard similarity of at least `similarity`;
texts of fewer than `min_words` words are left out (`tasks.algorithms.minhash` defines a word, also in scripts without
spaces). A group is a connected component of such pairs, so two of its texts may be less similar than that. Out: one row
per review of a group, with `review_id`, `group` (its smallest review_id) and `timestamp`, sorted by group and
review_id. Nothing is removed: `split` finds the groups on both sides of a border.

Texts that share a band of their MinHash signatures are candidates; only they are read a second time, and only their
shingles are exchanged. Every pair is verified by its exact similarity, so there are no false pairs. A pair of exactly
the least similarity is missed with a probability of 0.01 (`minhash.banding`). Neither the number of files nor the order
of rows changes the result: a digest of its words identifies and orders a text.

    raymill run --until near-duplicates
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.algorithms import minhash
from tasks.core.sections import Fraction, Positive, Section
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.engines import cluster
from tasks.parallel.exchange import by_block, hash_partition, keyed_exchange, shuffle, stacked

NEAR_DUPLICATES = pa.schema(
    [
        pa.field("review_id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # the smallest review_id of the group
        pa.field("timestamp", pa.timestamp("ms", tz="UTC"), nullable=False),
    ]
)
# Texts that share a key are compared to one leader, then to the next from those unlike all before, at most so many. A
# text repeated 10,000 times costs 10,000 comparisons, not 50 million.
LEADERS = 16
# Reviews per bucket: more reviews add buckets beyond the configured number, which bounds the keys that a task holds.
BUCKET_REVIEWS = 500_000


class NearDuplicatesConfig(Section):
    enabled: bool
    min_words: Positive
    similarity: Fraction
    buckets: Positive


@stage(version=1, config=NearDuplicatesConfig, libraries=("pyarrow", "polars", "numpy", "scipy"))
def near_duplicates(reviews: Snapshot, config: NearDuplicatesConfig, out: SnapshotWriter) -> None:
    import ray

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        return ray.remote(function).remote(*arguments)

    if not config.enabled:
        out.write_table(part_name(0), NEAR_DUPLICATES.empty_table(), NEAR_DUPLICATES)
        return
    buckets = max(config.buckets, -(-reviews.rows() // BUCKET_REVIEWS))
    config = config.model_copy(update={"buckets": buckets})  # buckets do not change the result
    groups = find_groups(reviews.files(), config, keyed_exchange, shuffle, call)
    out.add(cluster.gather([call(write_groups, out.sink, groups)]))


def find_groups(
    files: Sequence[Path],
    config: NearDuplicatesConfig,
    exchange: Callable[..., list[list[Any]]],
    shuffle: Callable[..., list[Any]],
    call: Callable[..., Any],
) -> Any:
    """Find the groups (NEAR_DUPLICATES); return them as `call` does: a reference on Ray, a table in process.

    exchange, shuffle: those of `tasks.parallel.exchange`, or their oracles. call(function, *arguments) runs a function.
    """
    shared = exchange(files, partial(split_by_band, config=config), find_shared, config.buckets)
    candidates = [call(read_candidates, file, config, *keys) for file, keys in zip(files, shared, strict=True)]
    members = [call(without_sets, c) for c in candidates]
    links = shuffle(candidates, split_by_key, partial(find_links, similarity=config.similarity), config.buckets)
    return call(join_groups, len(members), *members, *links)


def split_by_band(file: Path, buckets: int, config: NearDuplicatesConfig) -> list[pa.Table]:
    """Hash-partition the band keys of a file's texts by key: `key`, `digest` of the text and `row`."""
    bands, rows = minhash.banding(config.similarity)
    empty = np.zeros(0, np.uint64)
    keys, digests, numbers = [empty], [empty], [np.zeros(0, np.int32)]
    for first, texts in _texts(file):
        for shingled in minhash.shingle(texts, config.min_words):
            keys.append(minhash.band_keys(shingled, bands, rows).ravel())
            digests.append(np.repeat(shingled.digest, bands))
            numbers.append(np.repeat((shingled.text + first).astype(np.int32), bands))
    columns = {"key": np.concatenate(keys), "digest": np.concatenate(digests), "row": np.concatenate(numbers)}
    return hash_partition(pl.DataFrame(columns), pl.col("key"), buckets)


def _texts(file: Path, wanted: np.ndarray | None = None) -> Iterator[tuple[int, pa.ChunkedArray]]:
    """Yield a file's texts by row group, to bound memory, with the number of the first row.

    wanted: (n,) ascending row numbers; a row group without any is not read.
    """
    reader = pq.ParquetFile(file)
    first = 0
    for group in range(reader.num_row_groups):
        rows = reader.metadata.row_group(group).num_rows
        if wanted is None:
            yield first, reader.read_row_group(group, columns=["text"])["text"]
        elif len(here := wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, first + rows)]):
            yield first, reader.read_row_group(group, columns=["text"])["text"].take(pa.array(here - first))
        first += rows


def find_shared(slices: list[pa.Table]) -> list[pa.Table]:
    """Return, for each block, its rows whose key another row shares: `row` and `key`, null if all texts are equal."""
    seen = stacked(slices)
    # Filter first: most keys are unique and should cost no more than this.
    shared = seen.filter(pl.col("key").is_duplicated())
    differ = (pl.col("digest").min() != pl.col("digest").max()).over("key")
    return by_block(shared.select("block", "row", key=pl.when(differ).then("key")).unique(), len(slices))


def read_candidates(file: Path, config: NearDuplicatesConfig, *shared: pa.Table) -> pa.Table:
    """Read the candidates of a file: `review_id`, `timestamp`, `digest`, `keys`, and `shingles`, a sorted set.

    Keys and shingles are present once for equal texts, and only if there are pairs to verify.
    """
    keys = pl.concat([_frame(s) for s in shared]).group_by("row").agg(pl.col("key").drop_nulls()).sort("row")
    rows = keys["row"].to_numpy()
    digests, sets = [pl.Series(dtype=pl.UInt64)], [pl.Series(dtype=pl.List(pl.UInt64))]
    for _, texts in _texts(file, rows):
        for shingled in minhash.shingle(texts, config.min_words):
            digests.append(pl.Series(shingled.digest))
            sets.append(_lists(*minhash.shingle_sets(shingled)))
    about = pq.ParquetFile(file).read(columns=["review_id", "timestamp"]).take(pa.array(rows))
    candidates = _frame(about).with_columns(digest=pl.concat(digests), keys=keys["key"], shingles=pl.concat(sets))
    needed = pl.col("digest").is_first_distinct() & (pl.col("keys").list.len() > 0)
    return candidates.with_columns(pl.when(needed).then(pl.col("keys", "shingles"))).to_arrow()


def _lists(starts: np.ndarray, values: np.ndarray) -> pl.Series:
    lists = pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), pa.array(values))
    return pl.Series(values=pl.from_arrow(lists))


def without_sets(candidates: pa.Table) -> pa.Table:
    return candidates.select(["review_id", "timestamp", "digest"])


def split_by_key(candidates: pa.Table, buckets: int) -> list[pa.Table]:
    """Partition the candidates to verify by key: `digest`, the `keys` of the bucket, `shingles`."""
    frame = _frame(candidates).select("digest", "keys", "shingles").drop_nulls()
    pieces = []
    for b in range(buckets):
        here = frame.with_columns(pl.col("keys").list.eval(pl.element().filter(pl.element() % buckets == b)))
        pieces.append(here.filter(pl.col("keys").list.len() > 0).to_arrow())
    return pieces


def find_links(_bucket: int, slices: list[pa.Table], similarity: float) -> pa.Table:
    """Verify pairs and return those that are similar, by digest: `left`, `right`.

    Texts of one key are compared to the one with the smallest digest, then to the smallest of those not yet linked. A
    later leader is compared to all, linked or not, so similar texts end up connected unless leaders run out.
    """
    texts = pl.concat([_frame(s) for s in slices]).unique("digest").sort("digest")
    starts = np.concatenate([[0], np.cumsum(texts["shingles"].list.len().to_numpy())]).astype(np.int64)
    _, values = np.unique(texts["shingles"].explode(empty_as_null=False).to_numpy(), return_inverse=True)
    pairs = texts.select(text=pl.int_range(pl.len(), dtype=pl.Int64), key="keys").explode("key").sort("key", "text")
    text, key = pairs["text"].to_numpy(), pairs["key"].to_numpy()
    group = np.cumsum(np.diff(key, prepend=key[:1]) != 0)
    unlinked, led = np.ones(len(text), dtype=bool), np.zeros(len(text), dtype=bool)
    links = [np.zeros(0, np.int64)]
    for _ in range(LEADERS):
        first = np.flatnonzero(unlinked)
        _, leading = np.unique(group[first], return_index=True)
        if not len(leading):
            break
        leaders = first[leading]
        led[leaders], unlinked[leaders] = True, False
        leader = np.full(group[-1] + 1, -1)
        leader[group[leaders]] = leaders
        compared = np.flatnonzero(~led & (leader[group] >= 0))
        # A pair is one number, as most pairs share several keys and should be compared once.
        numbers = text[leader[group[compared]]] * len(texts) + text[compared]
        pair, place = np.unique(numbers, return_inverse=True)
        alike = minhash.jaccard(starts, values, *np.divmod(pair, len(texts))) >= similarity
        unlinked[compared[alike[place]]] = False
        links.append(pair[alike])
    left, right = np.divmod(np.concatenate(links), max(len(texts), 1))
    digest = texts["digest"].to_numpy()
    return pa.table({"left": digest[left], "right": digest[right]})


def join_groups(count: int, *tables: pa.Table) -> pa.Table:
    """Join `count` tables of candidates and the tables of links into groups (NEAR_DUPLICATES), connected components."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    members = pl.concat([_frame(t) for t in tables[:count]])
    links = pl.concat([_frame(t) for t in tables[count:]]).unique()
    digests = members["digest"].unique().sort()
    ends = [digests.search_sorted(links[c]).to_numpy() for c in ("left", "right")]
    graph = coo_array((np.ones(len(links), np.int8), ends), shape=(len(digests), len(digests)))
    _, component = connected_components(graph, directed=False)
    labelled = members.with_columns(component=component[digests.search_sorted(members["digest"]).to_numpy()])
    grouped = labelled.with_columns(
        group=pl.col("review_id").min().over("component"), size=pl.len().over("component")
    ).filter(pl.col("size") > 1)
    return grouped.sort("group", "review_id").to_arrow().select(NEAR_DUPLICATES.names).cast(NEAR_DUPLICATES)


def write_groups(sink: FileSink, groups: pa.Table) -> FileEntry:
    return sink.write_table(part_name(0), groups, NEAR_DUPLICATES)


def _frame(table: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table))
