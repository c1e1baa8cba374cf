"""Put together all that scoring raw reviews needs: the stage `package`.

In: the clean reviews (for their settings, and what is known of users and items), words, tokens, language model,
embeddings, product metadata, features, the final model and the text model. Out: a folder that
`tasks.stages.package.review_model` loads without Ray, in any process: the booster, the tokenizer, the last text-score
models and text model, the n-grams counted before the last period, when each word was first seen, and what was known of
users, items, categories and brands.

`since` is when the last models of the words take over. What is packed reproduces the features of every review from then
on, to the last bit; the stage `prove` compares its predictions with those of the test slice. Names of users and items
are hashed in its tables.

    raymill run --until package
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.part_files import read_part, scan_parts
from tasks.core.snapshot_files import FileEntry, FileSink, part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.engines import cluster
from tasks.parallel.exchange import shuffle, shuffle_in_process, stacked
from tasks.parallel.key_hash import hashed
from tasks.stages.clean.settings import CleanConfig
from tasks.stages.features import catalogue, past_aggregates
from tasks.stages.features.past_state import STATE, state_of
from tasks.stages.language_model import ngrams
from tasks.stages.language_model.settings import LanguageModelConfig
from tasks.stages.package import layout
from tasks.stages.package.settings import PackageConfig
from tasks.stages.text_model.rows import MODEL_FILES

FEW_ROWS = 200_000
KINDS = ("user", "item", *catalogue.KEYS)
WORDS = pa.schema([pa.field("token", pa.string(), nullable=False), pa.field("ms", pa.int64(), nullable=False)])


def size(package: Snapshot) -> int:
    return sum(entry.size for entry in package.manifest.files)


@stage(version=1, config=PackageConfig, unit="bytes", size=size, libraries=("pyarrow", "polars", "numpy"))
def package(
    reviews: Snapshot,
    counts: Snapshot,
    tokens: Snapshot,
    language: Snapshot,
    vectors: Snapshot | None,
    items: Snapshot | None,
    table: Snapshot,
    model: Snapshot,
    deep: Snapshot | None,
    config: PackageConfig,
    out: SnapshotWriter,
) -> None:
    import ray

    groups: dict[str, list[str]] = table.facts["groups"]
    files = reviews.files()
    since, until = cluster.gather([ray.remote(times).remote(files, table, language, deep, groups)])[0]
    past = past_columns(groups)
    writes = [ref for kind in past for ref in states(kind, reviews, items, since, table, out.sink)]
    if "shape" in groups:
        writes.append(ray.remote(write_words).remote(out.sink, counts.files()))
    if "language" in groups:
        grams = ray.remote(write_ngrams)
        last = len(language.facts["borders"])
        min_count = language.facts["scored_by"]["min_count"]
        writes += [grams.remote(out.sink, i, f, last, min_count) for i, f in enumerate(language.files("ngrams"))]
    if items and "catalogue" in groups:
        writes.append(ray.remote(write_items).remote(out.sink, items.files()))
    for name, source, group in (
        (layout.MODEL, model, None),
        (layout.TOKENIZER, tokens, None),
        (layout.TEXT_SCORE, table, "text"),
        (layout.VECTORS, vectors, "embeddings"),
        *((name, deep, "deep") for name in MODEL_FILES),
    ):
        if source and (group is None or group in groups):
            out.write_bytes(name, source.path(name).read_bytes())
    written: list[FileEntry] = sorted(cluster.gather(writes), key=lambda entry: str(entry.name))
    out.add(written)
    about = layout.About(
        target=str(table.facts["target"]),
        features=model.facts["features"],
        groups=groups,
        past=past,
        since=since,
        until=until,
        clean=CleanConfig(**reviews.facts["tidied"], drop_duplicates=False, drop_repeated_pairs=False),
        splitting=counts.facts["splitting"],
        max_tokens=tokens.facts["max_tokens"],
        language=about_language(language) if "language" in groups else None,
        reviews=reviews.rows(),
    )
    out.write_bytes(layout.ABOUT, about.model_dump_json(indent=1).encode())
    out.fact(
        target=about.target,
        since=since,
        until=until,
        bytes=sum(entry.size for entry in out.entries),
        rows={name: out.rows(name) for name in sorted({e.table for e in out.entries if e.rows is not None})},
    )


def times(
    files: Sequence[Path], table: Snapshot, language: Snapshot, deep: Snapshot | None, groups: dict[str, list[str]]
) -> tuple[int, int]:
    """Return when the last models of the words take over, and the time of the latest review, in ms.

    Without such models the first is the time of the earliest review: nothing hinders from keeping all times.
    """
    ends = scan_parts(files).select(
        first=pl.col("timestamp").min().dt.epoch("ms"), last=pl.col("timestamp").max().dt.epoch("ms")
    )
    first, last = ends.collect().row(0)
    borders = [int(first)]
    if "text" in groups:
        with np.load(table.path(layout.TEXT_SCORE), allow_pickle=False) as arrays:
            borders.append(int(arrays["border"]))
    if "language" in groups:
        borders += language.facts["borders"][-1:]
    if deep and "deep" in groups:
        borders += deep.facts["borders"][-1:]
    return max(borders), int(last)


def past_columns(groups: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the columns of KNOWN that the features take, by kind: user, item, category, brand."""
    names = {name for of_group in groups.values() for name in of_group}
    found = {kind: [known for known in past_aggregates.KNOWN if f"{kind}_{known}" in names] for kind in KINDS}
    return {kind: known for kind, known in found.items() if known}


def states(
    kind: str, reviews: Snapshot, items: Snapshot | None, since: int, table: Snapshot, sink: FileSink
) -> list[Any]:
    """Write one kind's table of the past; returns references to the entries of its files.

    Of FEW_ROWS, which one task adds up in a moment, the others would only start more processes.
    """
    import ray

    buckets, files = table.manifest.config["buckets"], reviews.files()
    of_catalogue = kind in catalogue.KEYS
    blocks: Sequence[Any] = catalogue.with_items(files, items.files(), buckets) if items and of_catalogue else files
    split = partial(past_aggregates.split_by_key, key=kind if of_catalogue else f"{kind}_id")
    write = partial(write_state, sink, kind, since)
    if reviews.rows() > FEW_ROWS:
        return shuffle(blocks, split, write, buckets)
    written = ray.remote(write_states).options(num_returns=buckets).remote(split, write, buckets, *blocks)
    return [written] if buckets == 1 else list(written)


def write_states(split: Any, write: Any, buckets: int, *blocks: Any) -> Any:
    entries = shuffle_in_process(blocks, split, write, buckets)
    return entries[0] if buckets == 1 else tuple(entries)


def write_state(sink: FileSink, kind: str, since: int, bucket: int, slices: list[pa.Table]) -> FileEntry:
    state = state_of(past_aggregates.cumulative(stacked(slices)), since)
    return sink.write_table(part_name(bucket, layout.past_table(kind)), state, STATE)


def write_words(sink: FileSink, counts: Sequence[Path]) -> FileEntry:
    from tasks.stages.features.group import Words

    words = Words.read(counts, "").first_seen.sort("token")
    return sink.write_table(part_name(0, layout.WORDS), words.to_arrow(), WORDS)


def write_ngrams(sink: FileSink, index: int, file: Path, last: int, min_count: int) -> FileEntry:
    """Write one partition of the n-grams, added up over the periods before the last one, as period 0."""

    def added() -> Iterator[pa.Table]:
        held: pl.DataFrame = pl.DataFrame()
        for batch in pq.ParquetFile(file).iter_batches():
            rows = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch])))
            rows = pl.concat([held, rows]) if len(held) else rows
            held = rows.filter(pl.col("gram") == rows["gram"][-1])  # the last gram may go on in the next batch
            yield summed(rows.filter(pl.col("gram") != rows["gram"][-1]))
        if len(held):
            yield summed(held)

    def summed(rows: pl.DataFrame) -> pa.Table:
        sums = (
            rows.filter(pl.col("period") < last)
            .group_by("gram", maintain_order=True)
            .agg(pl.lit(0, pl.Int8).alias("period"), pl.col("all", "high").sum())
            .filter((pl.col("all") >= min_count) | (pl.col("gram") < 1 << ngrams.BITS))
        )
        return sums.select(ngrams.NGRAMS.names).to_arrow().cast(ngrams.NGRAMS)

    return sink.write_batches(part_name(index, layout.NGRAMS), added(), ngrams.NGRAMS)


def about_language(language: Snapshot) -> layout.LanguageAbout:
    config = LanguageModelConfig(**{**language.manifest.config, **language.facts["scored_by"]})
    every, high = (sum(language.facts[name][:-1]) for name in ("period_tokens", "period_tokens_high"))
    return layout.LanguageAbout(config=config, tokens=(every, high))


def write_items(sink: FileSink, files: Sequence[Path]) -> FileEntry:
    """Write the products' metadata by the hash of their names."""
    columns = {column: name for name, column in catalogue.METADATA.items()}
    rows = pl.concat([read_part(file, ["item_id", *catalogue.KEYS, *columns]) for file in files]).rename(columns)
    keyed = rows.with_columns(item_id=pl.Series(hashed(rows["item_id"]), dtype=pl.UInt64)).rename({"item_id": "key"})
    return sink.write_table(part_name(0, layout.ITEMS), keyed.sort("key").to_arrow())
