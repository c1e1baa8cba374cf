"""Reviews, word counts, tokens and language-model scores in, one row of numbers per review out.

No feature looks ahead. What is known of a user or an item is taken from reviews strictly before the review's own
timestamp: reviews of the same moment (often the same day) do not see each other. The text score comes from models of
earlier time blocks (`tasks.text_score`), and so do the scores of `language-model`; a word is new or not by when it was
first seen. Votes are left out: they are cast after the review.

Out: one file per file of reviews, in the same row order, and `text_score.npz` with the score's models, so that new
reviews can be scored. `FEATURES` lists the columns and their meaning.

    raymill run --until features
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks import text_score
from tasks.core.settings import FeaturesConfig
from tasks.core.snapshots import FileEntry, FileSink, Snapshot, SnapshotWriter, part_name
from tasks.core.stage import stage
from tasks.count_words import CHUNK_BYTES, said, splitter
from tasks.engines import cluster, pieces
from tasks.parallel.exchange import keyed_exchange

# Numbers the model learns from, all float32, NaN or null where unknown.
FEATURES = {
    "user_count": "earlier reviews of this user",
    "user_mean": "mean of their ratings; null if none",
    "user_std": "standard deviation of their ratings; null if none",
    "user_days_since_last": "days since the latest of them",
    "item_count": "earlier reviews of this item",
    "item_mean": "mean of their ratings; null if none",
    "item_std": "standard deviation of their ratings; null if none",
    "item_days_since_last": "days since the latest of them",
    "n_chars": "characters of the text",
    "n_tokens": "tokens of title and text",
    "title_chars": "characters of the title",
    "exclamations": "exclamation marks per 100 characters",
    "questions": "question marks per 100 characters",
    "capitals": "share of capitals among the letters A-Z, a-z",
    "new_words": "share of words that no earlier review holds",
    "verified": "1 verified, 0 not, null unknown",
    "text_score": "rating expected from the words by a model of earlier blocks; null in the first",
    "lm_surprise": "bits per token by the n-grams of earlier periods; null in the first",
    "lm_high": "by how many bits a token the wording is that of earlier reviews of 4 and 5 stars; null in the first",
}
KEPT = ("review_id", "user_id", "item_id", "category", "rating", "timestamp")
DAY_MS = 86_400_000
Vocabulary = tuple[Sequence[Path], str]  # files of word counts, and how texts were split for them


@stage(version=1, libraries=("pyarrow", "polars", "scipy", "numpy"))
def features(
    reviews: Snapshot,
    counts: Snapshot,
    tokens: Snapshot,
    language: Snapshot,
    config: FeaturesConfig,
    out: SnapshotWriter,
) -> None:
    import ray

    files = list(zip(reviews.files(), tokens.files(), strict=True))
    known = {kind: known_before([r for r, _ in files], f"{kind}_id", config.buckets) for kind in ("user", "item")}
    scores = text_score.fit(files, config.text_score) if config.text_score.enabled else None
    shared = ray.put(((counts.files(), counts.facts["splitting"]), config, scores))
    models = language.files() if language.rows() else [None] * len(files)  # it may be switched off
    write = ray.remote(write_part)
    refs = [
        write.remote(out.sink, i, pair, model, shared, *known["user"][i], *known["item"][i])
        for i, (pair, model) in enumerate(zip(files, models, strict=True))
    ]
    out.add(cluster.gather(refs))
    if scores is not None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **vars(scores))
        out.write_bytes("text_score.npz", buffer.getvalue())
    out.count(rows_in=reviews.rows())
    out.fact(features=list(FEATURES))


def known_before(files: Sequence[Path], key: str, buckets: int) -> list[list[Any]]:
    """For each file, references to tables of what was known of `key` before each row, in `buckets` pieces."""

    def split(file: Path, buckets: int) -> list[pa.Table]:
        return split_by_key(file, key, buckets)

    return keyed_exchange(files, split, answer_past, buckets)


def split_by_key(file: Path, key: str, buckets: int) -> list[pa.Table]:
    """Row number, key, time and rating of a file's reviews, hash-partitioned by key."""
    reviews = pl.read_parquet(file, columns=[key, "timestamp", "rating"], hive_partitioning=False)
    rows = reviews.select(
        row=pl.int_range(pl.len(), dtype=pl.Int64),
        key=pl.col(key),
        ms=pl.col("timestamp").dt.epoch("ms"),
        rating=pl.col("rating").cast(pl.Float64),
        bucket=pl.col(key).hash(7) % buckets,
    )
    return [rows.filter(pl.col("bucket") == b).drop("bucket").to_arrow() for b in range(buckets)]


def answer_past(slices: list[pa.Table]) -> list[pa.Table]:
    """Per row: count, mean, standard deviation of the key's ratings before its moment, and days since the last."""
    rows = pl.concat(
        [pl.DataFrame(pl.from_arrow(s)).with_columns(block=pl.lit(i, dtype=pl.Int32)) for i, s in enumerate(slices)]
    )
    moments = (
        rows.group_by("key", "ms")
        .agg(n=pl.len().cast(pl.Int64), total=pl.col("rating").sum(), squares=(pl.col("rating") ** 2).sum())
        .sort("key", "ms")
        # Cumulative over the key's moments, shifted by one: a moment sees those before it, never itself.
        .with_columns(
            pl.col("n", "total", "squares").cum_sum().shift(1).over("key"), last=pl.col("ms").shift(1).over("key")
        )
    )
    mean = pl.col("total") / pl.col("n")
    answers = rows.join(moments, on=["key", "ms"], how="left").select(
        "block",
        "row",
        count=pl.col("n").fill_null(0).cast(pl.Float32),
        mean=mean.cast(pl.Float32),
        std=(pl.col("squares") / pl.col("n") - mean**2).clip(0).sqrt().cast(pl.Float32),
        days_since_last=((pl.col("ms") - pl.col("last")) / DAY_MS).cast(pl.Float32),
    )
    by_block = answers.partition_by("block", as_dict=True, include_key=False)
    nothing = answers.clear().drop("block")
    return [by_block.get((i,), nothing).to_arrow() for i in range(len(slices))]


def write_part(
    sink: FileSink,
    index: int,
    files: text_score.FilePair,
    language: Path | None,
    shared: tuple[Vocabulary, FeaturesConfig, text_score.TextScore | None],
    *known: pa.Table,
) -> FileEntry:
    """All features of one file of reviews. `known`: the user pieces, then as many item pieces.

    language: its language-model scores, row by row.
    """
    counts, config, scores = shared
    reviews = pl.read_parquet(files[0], hive_partitioning=False)
    half = len(known) // 2
    columns = {
        **in_row_order("user", known[:half]),
        **in_row_order("item", known[half:]),
        **text_shape(reviews, counts),
        **token_features(reviews, files[1], config, scores),
        **language_features(reviews, language),
    }
    table = reviews.select(KEPT).with_columns(**columns).select(*KEPT, pl.col(list(FEATURES)).cast(pl.Float32))
    return sink.write_table(part_name(index), table.to_arrow())


def in_row_order(kind: str, answers: Sequence[pa.Table]) -> dict[str, pl.Series]:
    together = pl.concat([pl.DataFrame(pl.from_arrow(a)) for a in answers]).sort("row").drop("row")
    return {f"{kind}_{column.name}": column for column in together}


def text_shape(reviews: pl.DataFrame, counts: Vocabulary) -> dict[str, pl.Series]:
    text, title = pl.col("text"), pl.col("title")
    chars = text.str.len_chars()
    per_100 = 100 / chars.clip(1)
    letters = text.str.count_matches("[A-Za-z]").clip(1)
    shape = reviews.select(
        n_chars=chars,
        title_chars=title.str.len_chars(),
        exclamations=text.str.count_matches("!", literal=True) * per_100,
        questions=text.str.count_matches("?", literal=True) * per_100,
        capitals=text.str.count_matches("[A-Z]") / letters,
        verified=pl.col("verified"),
    )
    return {**shape.to_dict(), "new_words": new_share(reviews, counts)}


def new_share(reviews: pl.DataFrame, counts: Vocabulary) -> pl.Series:
    """Share of each review's words that no review before its moment holds; 0 where there are no words."""
    files, splitting = counts
    known = pl.concat([pl.scan_parquet(f, hive_partitioning=False) for f in files])
    known = known.filter(pl.col("n") == 1).select("token", pl.col("first_seen").dt.epoch("ms")).collect()
    texts, times, split = said(reviews), reviews["timestamp"].dt.epoch("ms").to_numpy(), splitter(splitting)
    shares = [pl.Series([], dtype=pl.Float32)]
    for rows in pieces.chunks(texts, CHUNK_BYTES):
        cut = split(texts[rows])
        words = cut.text.dictionary_encode()
        met = pl.DataFrame({"token": pl.Series(words.dictionary).cast(pl.String)})
        # The vocabulary is looked up once for each different word.
        first = met.join(known, on="token", how="left", maintain_order="left")["first_seen"].fill_null(-(1 << 62))
        row = np.repeat(np.arange(len(cut.counts)), cut.counts)
        new = first.to_numpy()[words.indices.to_numpy()] >= times[rows][row]
        shares.append(pl.Series(np.bincount(row, new, len(cut.counts)) / cut.counts.clip(1), dtype=pl.Float32))
    return pl.concat(shares)


def token_features(
    reviews: pl.DataFrame, file: Path, config: FeaturesConfig, scores: text_score.TextScore | None
) -> dict[str, pl.Series]:
    ids = text_score.read_ids(file)
    lengths = pl.Series(np.diff(ids.offsets.to_numpy()), dtype=pl.Float32)
    if scores is None:
        return {"n_tokens": lengths, "text_score": pl.Series([None] * len(lengths), dtype=pl.Float32)}
    times = reviews["timestamp"].dt.epoch("ms").to_numpy()
    score = scores.score(text_score.hash_tokens(ids, config.text_score.dimensions), times)
    return {"n_tokens": lengths, "text_score": pl.Series(score, dtype=pl.Float32).fill_nan(None)}


def language_features(reviews: pl.DataFrame, file: Path | None) -> dict[str, pl.Series]:
    names = ["lm_surprise", "lm_high"]
    if file is None:
        return {name: pl.Series([None] * len(reviews), dtype=pl.Float32) for name in names}
    return pl.read_parquet(file, columns=names, hive_partitioning=False).to_dict()
