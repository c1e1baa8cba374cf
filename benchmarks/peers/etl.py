"""The four peers of the bench case `etl`: clean raw reviews and aggregate them by reviewer, in one process.

In: a folder of parquet files with the 15 columns of the US customer reviews, a review_id in every row. Out:
`reviews.parquet`, the usable, tidy and unique reviews with the canonical columns, and `reviewers.parquet`. All four
give the same rows, except for ties: of reviews with one review_id, or of one item by one user, the latest stays, and of
equally late ones any.

    polars        one lazy query on the streaming engine, the text steps one after the other
    polars_tuned  repeats found on the keys alone, each text step only on the rows that need it
    pandas        Arrow-backed columns: half the processor time of NumPy's object columns here
    modin_naive   the pandas program with its import changed, on Ray

    python -m benchmarks.peers.etl NAME INPUT OUT [--threads 2]
"""

from __future__ import annotations

import argparse
import html
import json
import os
import sys
import time
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
YES, NO = ["y", "yes", "true", "1"], ["n", "no", "false", "0"]
TEXTS = ("title", "text")
SOURCES = {
    "review_id": "review_id",
    "user_id": "customer_id",
    "item_id": "product_id",
    "rating": "star_rating",
    "title": "review_headline",
    "text": "review_body",
    "timestamp": "review_date",
    "helpful_votes": "helpful_votes",
    "total_votes": "total_votes",
    "verified": "verified_purchase",
    "category": "product_category",
}
TAG = r"<[a-zA-Z/!][^>]*>"
URL = r"(?i:https?://|www\.)[^\s<]+"
BLANKS = r"[\s\p{Cc}]+"
# Does not match a single space: nearly all blanks are one, and each match costs a copy.
UGLY_BLANKS = r"[\s\p{Cc}]{2,}|[^\S ]|\p{Cc}"
# The same for RE2, whose \s matches ASCII only.
RE2_URL = r"(?i:https?://|www\.)[^\p{Z}\t-\r\x{85}<]+"
RE2_UGLY_BLANKS = r"[\p{Z}\p{Cc}]{2,}|\p{Cc}|[\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
ZSTD: dict[str, Any] = {"compression": "zstd", "compression_level": 1}


def day_after_tomorrow() -> datetime:
    """Return the first moment, in UTC, that no review can be from yet: in some time zones tomorrow has begun."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=2)


def polars(input: Path, out: Path) -> None:
    """Do the whole job by one lazy query with two sinks."""
    import polars as pl

    reviews = (
        scan(input)
        .select(**canonical())
        .filter(usable())
        .with_columns(tidy_chain(c) for c in TEXTS)
        # Without maintain_order, `keep` ignores the order.
        .sort("timestamp", descending=True, maintain_order=True)
        .unique("review_id", keep="first", maintain_order=True)
        .unique(["user_id", "item_id"], keep="first", maintain_order=True)
    )
    sinks = (
        reviews.sink_parquet(out / "reviews.parquet", lazy=True, **ZSTD),
        by_user(reviews).sink_parquet(out / "reviewers.parquet", lazy=True, **ZSTD),
    )
    pl.collect_all(sinks, engine="streaming")


def polars_tuned(input: Path, out: Path) -> None:
    """Read the keys first, to find the rows that stay; then stream those rows from the input to the output."""
    import polars as pl

    raw = scan(input).with_row_index("row")
    columns = canonical()
    narrow = {c: e for c, e in columns.items() if c not in (*TEXTS, "verified", "category")}
    keys = raw.select("row", **narrow).filter(usable()).collect(engine="streaming")
    kept = without_repeats(without_repeats(keys, "review_id"), "user_id", "item_id")
    stays = pl.zeros(raw.select(pl.len()).collect().item(), dtype=pl.Boolean, eager=True).scatter(kept["row"], True)
    row_stays = pl.col("row").map_batches(stays.gather, return_dtype=pl.Boolean, is_elementwise=True)
    # Series.map_batches: each step gets a batch of rows, and can skip those that it would not change.
    tidied = (pl.col(c).map_batches(tidy_where_needed, return_dtype=pl.String, is_elementwise=True) for c in TEXTS)
    reviews = raw.filter(row_stays).select(**columns).with_columns(tidied)
    sinks = (
        reviews.sink_parquet(out / "reviews.parquet", lazy=True, **ZSTD),
        by_user(kept.lazy()).sink_parquet(out / "reviewers.parquet", lazy=True, **ZSTD),
    )
    pl.collect_all(sinks, engine="streaming")


def scan(input: Path) -> Any:
    import polars as pl

    return pl.scan_parquet(sorted(input.glob("*.parquet")), hive_partitioning=False)


def canonical() -> dict[str, Any]:
    """Return the canonical columns as Polars expressions over the source's."""
    import polars as pl

    columns = {name: pl.col(source) for name, source in SOURCES.items()}
    columns |= {c: columns[c].str.strip_chars() for c in ("review_id", "user_id", "item_id", "category")}
    columns |= {c: columns[c].fill_null("") for c in TEXTS}
    columns |= {c: columns[c].cast(pl.Int32) for c in ("helpful_votes", "total_votes")}
    flag = columns["verified"].str.strip_chars().str.to_lowercase()
    columns["verified"] = pl.when(flag.is_in(YES)).then(True).when(flag.is_in(NO)).then(False)
    columns["rating"] = columns["rating"].cast(pl.Float32)
    columns["timestamp"] = columns["timestamp"].cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    return columns


def usable() -> Any:
    import polars as pl

    named = (pl.col("user_id") != "") & (pl.col("item_id") != "")
    timely = (pl.col("timestamp") >= EARLIEST) & (pl.col("timestamp") < day_after_tomorrow())
    return named & pl.col("rating").is_between(1, 5) & timely


def tidy_chain(column: str) -> Any:
    """Build the text steps as an expression. Entities are decoded in Python, so only where there may be one."""
    import polars as pl

    decoded = pl.col(column).str.normalize("NFC")
    decoded = decoded.map_batches(unescape_series, return_dtype=pl.String, is_elementwise=True)
    return decoded.str.replace_all(TAG, " ").str.replace_all(URL, " ").str.replace_all(BLANKS, " ").str.strip_chars()


def tidy_where_needed(texts: Any) -> Any:
    """Apply the same steps, each only on the rows that a cheap search selects."""
    texts = _on(texts, texts.str.len_bytes() != texts.str.len_chars(), lambda some: some.str.normalize("NFC"))
    texts = unescape_series(texts)
    texts = _on(texts, texts.str.contains("<", literal=True), lambda some: some.str.replace_all(TAG, " "))
    linked = texts.str.contains("://", literal=True) | texts.str.contains(r"(?i)www\.")
    texts = _on(texts, linked, lambda some: some.str.replace_all(URL, " "))
    return texts.str.replace_all(UGLY_BLANKS, " ").str.strip_chars()


def unescape_series(texts: Any) -> Any:
    import polars as pl

    def decode(some: Any) -> Any:
        return pl.Series(some.name, [unescape(text) for text in some], dtype=pl.String)

    return _on(texts, texts.str.contains("&", literal=True), decode)


def unescape(text: str) -> str:
    """Decode HTML entities until nothing changes, and normalise to NFC, as decoded characters may not be in it."""
    while "&" in text:
        decoded = unicodedata.normalize("NFC", html.unescape(text))
        if decoded == text:
            break
        text = decoded
    return text


def _on(texts: Any, mask: Any, function: Any) -> Any:
    # Series.scatter writes into its own series, which may be the query's.
    return texts.clone().scatter(mask.arg_true(), function(texts.filter(mask))) if mask.any() else texts


def without_repeats(rows: Any, *key: str) -> Any:
    """Keep the latest row of each key. Only rows with a repeated key are sorted."""
    import polars as pl

    together = pl.struct(key) if len(key) > 1 else pl.col(key[0])
    shared = rows.filter(together.is_duplicated()).sort("timestamp", descending=True, maintain_order=True)
    gone = shared.filter(~together.is_first_distinct())["row"]
    return rows.filter(~pl.col("row").is_in(gone.implode()))


def by_user(reviews: Any) -> Any:
    """Aggregate to one row per reviewer; missing votes count as 0."""
    import polars as pl

    year = pl.col("timestamp").dt.year()
    return reviews.group_by("user_id").agg(
        reviews=pl.len(),
        items=pl.col("item_id").n_unique(),
        mean_rating=pl.col("rating").cast(pl.Float64).mean(),
        first_year=year.min(),
        latest_year=year.max(),
        helpful_votes=pl.col("helpful_votes").cast(pl.Int64).sum(),
        total_votes=pl.col("total_votes").cast(pl.Int64).sum(),
    )


def pandas(input: Path, out: Path) -> None:
    import pandas as pd

    frames_program(pd, input, out)


def modin_naive(input: Path, out: Path) -> None:
    import modin.pandas as pd

    frames_program(pd, input, out)


def frames_program(pd: Any, input: Path, out: Path) -> None:
    """Do the whole job in pandas, or a module with the same interface."""
    reviews = pd.read_parquet(input, columns=list(SOURCES.values()), dtype_backend="pyarrow")
    reviews = reviews.rename(columns={source: name for name, source in SOURCES.items()})
    for column in ("review_id", "user_id", "item_id", "category"):
        reviews[column] = reviews[column].str.strip()
    reviews["rating"] = reviews["rating"].astype("float[pyarrow]")
    reviews["timestamp"] = reviews["timestamp"].astype("timestamp[ms][pyarrow]").dt.tz_localize("UTC")
    flag = reviews["verified"].str.strip().str.lower()
    reviews["verified"] = flag.map({**dict.fromkeys(YES, True), **dict.fromkeys(NO, False)}).astype("bool[pyarrow]")
    named = (reviews["user_id"].fillna("") != "") & (reviews["item_id"].fillna("") != "")
    timely = (reviews["timestamp"] >= pd.Timestamp(EARLIEST)) & (
        reviews["timestamp"] < pd.Timestamp(day_after_tomorrow())
    )
    reviews = reviews[(named & reviews["rating"].between(1, 5) & timely).fillna(False)]
    for column in TEXTS:
        texts = reviews[column].fillna("").str.normalize("NFC")
        # On all rows: Modin silently ignores an assignment through a mask.
        texts = texts.map(unescape).astype(texts.dtype)
        for pattern in (TAG, RE2_URL, RE2_UGLY_BLANKS):
            texts = texts.str.replace(pattern, " ", regex=True)
        reviews[column] = texts.str.strip()
    reviews = reviews.sort_values("timestamp", kind="stable")
    reviews = reviews.drop_duplicates("review_id", keep="last").drop_duplicates(["user_id", "item_id"], keep="last")
    reviews.to_parquet(out / "reviews.parquet", index=False, **ZSTD)

    reviews["year"] = reviews["timestamp"].dt.year
    reviews["rating"] = reviews["rating"].astype("double[pyarrow]")
    reviewers = reviews.groupby("user_id", sort=False).agg(
        reviews=("item_id", "size"),
        items=("item_id", "nunique"),
        mean_rating=("rating", "mean"),
        first_year=("year", "min"),
        latest_year=("year", "max"),
        helpful_votes=("helpful_votes", "sum"),
        total_votes=("total_votes", "sum"),
    )
    reviewers.reset_index().to_parquet(out / "reviewers.parquet", index=False, **ZSTD)


PEERS = {peer.__name__: peer for peer in (polars, polars_tuned, pandas, modin_naive)}


def prepare(name: str, threads: int) -> None:
    """Do what is not timed: the imports, and for Modin a Ray session like ours."""
    # Thread pools are sized when their library is first imported, which happens later.
    for pool in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS"):
        os.environ[pool] = str(threads)
    if name.startswith("polars"):
        import polars as pl

        if pl.thread_pool_size() != threads:
            raise RuntimeError(f"Polars runs on {pl.thread_pool_size()} threads, not on {threads}")
        return
    if name == "modin_naive":
        from tasks.engines import cluster
        from tasks.settings import load_settings

        cluster.start(load_settings(overrides=[f"ray.logical_cpus={threads}"]).ray)
        import modin.pandas as modin_pandas

        modin_pandas.DataFrame({"warm": range(1000)}).sum()
    import pandas as pd

    pd.DataFrame({"warm": ["up"]}, dtype="string[pyarrow]")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.etl", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("input", type=Path)
    parser.add_argument("out", type=Path, help="an existing folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    given = parser.parse_args()
    prepare(given.name, given.threads)
    started = time.perf_counter()
    PEERS[given.name](given.input, given.out)
    took = json.dumps({"wall_s": time.perf_counter() - started, "threads": given.threads}) + "\n"
    sys.stdout.write(took) if given.json == "-" else Path(given.json).write_text(took)
    return 0


if __name__ == "__main__":
    sys.exit(main())
