"""Count the words of clean reviews: our MapReduce against one query, and against a Counter.

In: clean reviews (benchmarks/text_input.py). Out: the columns of WORD_COUNTS. Ours is the stage count-words through the
stage runner, into an empty store, in a running Ray session, without validation, which no peer does. Peers run in their
own processes, with as many threads as we have logical CPUs, and write `words.parquet`, sorted by token:

    polars             one lazy query on the streaming engine: group by token, reviews counted by `n_unique`
    polars_two_steps   the same by review and token first
    duckdb             one query: group by review and token, then by token
    duckdb_histogram   the same with a histogram of each review's words as the first step
    counter            collections.Counter and Python's regular expressions, on one core
    spark              DataFrames, by review and token first (benchmarks/peers/spark/words.py), where there is Java; it
                       does the job twice, and the second time counts: `startup_s` and `first_s` tell the rest

    raymill bench wordcount [--size MB] [--input FOLDER] [--workers W] [--json FILE|-]
    python -m benchmarks.cases.wordcount NAME INPUT OUT [--threads 2]     a peer alone
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, SelfTimed
from benchmarks.peers.spark import side as spark_side
from benchmarks.peers.text import ZSTD, run_alone, without
from benchmarks.text_input import Job, Output, code_ranges, measure_input, peer, run_stage_alone, speeds, start
from tasks.core.part_files import read_part, scan_parts

STARS = range(1, 6)
WORD = r"\w+(?:['’]\w+)*"
# Rust's \w, which Polars uses: RE2's matches ASCII only, and Python's matches ½ and no combining accents.
WORD_CATEGORIES = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "Pc"}
WORD_OTHERS = ((0x200C, 0x200D), (0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189))
RE2_LETTER = r"\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}" + "".join(rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in WORD_OTHERS)


def ours(job: Job) -> SelfTimed:
    from tasks.stages.count_words import count_words

    return run_stage_alone(job, count_words, job.settings.count_words)


def polars(input: Path, out: Path, _threads: int) -> None:
    import polars as pl

    stars = pl.col("stars")
    counted = polars_words(input).group_by("token").agg(
        n=pl.lit(1, pl.Int8),
        count=pl.len(),
        documents=pl.col("row").n_unique(),
        **{f"rating_{k}": (stars == k).sum() for k in STARS},
        first_seen=pl.col("timestamp").min(),
    )  # fmt: skip
    counted.sort("token").sink_parquet(out / "words.parquet", engine="streaming", **ZSTD)


def polars_two_steps(input: Path, out: Path, _threads: int) -> None:
    import polars as pl

    stars, count = pl.col("stars"), pl.col("count")
    by_review = polars_words(input).group_by("row", "token").agg(
        count=pl.len(), stars=stars.first(), timestamp=pl.col("timestamp").first()
    )  # fmt: skip
    counted = by_review.group_by("token").agg(
        n=pl.lit(1, pl.Int8),
        count=count.sum(),
        documents=pl.len(),
        **{f"rating_{k}": (count * (stars == k)).sum() for k in STARS},
        first_seen=pl.col("timestamp").min(),
    )
    counted.sort("token").sink_parquet(out / "words.parquet", engine="streaming", **ZSTD)


def polars_words(input: Path) -> Any:
    """Make a row per word of each review: row, stars, timestamp, token."""
    import polars as pl

    texts = (pl.col("title") + "\n" + pl.col("text")).str.to_lowercase()
    return (
        scan_parts(sorted(input.glob("*.parquet")))
        .with_row_index("row")
        .select(
            "row", "timestamp", stars=(pl.col("rating") + 0.5).floor().cast(pl.Int8), token=texts.str.extract_all(WORD)
        )
        .explode("token")
        .drop_nulls("token")
    )


def duckdb(input: Path, out: Path, threads: int) -> None:
    by_review = """
        SELECT token, count(*) AS c, any_value(stars) AS stars, any_value(seen) AS seen
        FROM (SELECT row, stars, seen, unnest(words) AS token FROM reviews) GROUP BY row, token"""
    count_in_duckdb(by_review, input, out, threads)


def duckdb_histogram(input: Path, out: Path, threads: int) -> None:
    by_review = """
        SELECT unnest(map_keys(held)) AS token, unnest(map_values(held)) AS c, stars, seen
        FROM (SELECT stars, seen, list_aggregate(words, 'histogram') AS held FROM reviews)"""
    count_in_duckdb(by_review, input, out, threads)


def count_in_duckdb(by_review: str, input: Path, out: Path, threads: int) -> None:
    """Count words by SQL. `by_review` is a query on `reviews` (row, stars, seen, words) giving token, c, stars, seen,
    a row for each review and each distinct word of it."""
    import duckdb as db

    def words(letter: str) -> str:
        return f"regexp_extract_all(text, '[{letter}]+(?:[''’][{letter}]+)*')"

    files = ", ".join("'{}'".format(str(file).replace("'", "''")) for file in sorted(input.glob("*.parquet")))
    ratings = ", ".join(f"coalesce(sum(c) FILTER (stars = {k}), 0)::BIGINT AS rating_{k}" for k in STARS)
    # ASCII texts, nearly all, use the smaller class: a third less time.
    query = f"""
        WITH rows AS (
            SELECT file_index::UBIGINT << 32 | file_row_number AS row, floor(rating + 0.5)::TINYINT AS stars,
                "timestamp" AS seen, lower(title || chr(10) || text) AS text
            FROM read_parquet([{files}], file_row_number = true, hive_partitioning = false)
        ), reviews AS (
            SELECT row, stars, seen,
                CASE WHEN strlen(text) = length(text) THEN {words("0-9A-Za-z_")} ELSE {words(RE2_LETTER)} END AS words
            FROM rows
        )
        SELECT token, 1::TINYINT AS n, sum(c)::BIGINT AS count, count(*) AS documents, {ratings},
            min(seen) AS first_seen
        FROM ({by_review}) GROUP BY token ORDER BY token"""
    target = str(out / "words.parquet").replace("'", "''")
    with db.connect(config={"threads": threads, "temp_directory": str(out / "spilled")}) as connection:
        connection.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")


def counter(input: Path, out: Path, _threads: int) -> None:
    by_stars: dict[int, Counter[str]] = {k: Counter() for k in STARS}
    documents: Counter[str] = Counter()
    first_seen: dict[str, int] = {}
    for file in sorted(input.glob("*.parquet")):
        first_in_file: dict[str, int] = {}
        for stars, seen, text in latest_first(file):
            words = words_of(text.lower())
            by_stars[stars].update(words)
            different = dict.fromkeys(words, seen)
            documents.update(different.keys())
            first_in_file.update(different)  # the earliest comes last and overwrites
        for word, seen in first_in_file.items():
            if seen < first_seen.get(word, seen + 1):
                first_seen[word] = seen
    write_counts(out / "words.parquet", by_stars, documents, first_seen)


def latest_first(file: Path) -> Iterable[tuple[int, int, str]]:
    """Read stars, time in milliseconds and text of each review, the latest first."""
    import polars as pl

    rows = read_part(file, ["title", "text", "rating", "timestamp"])
    reviews = rows.sort("timestamp", descending=True).select(
        stars=(pl.col("rating") + 0.5).floor().cast(pl.Int8),
        seen=pl.col("timestamp").to_physical(),
        text=pl.col("title") + "\n" + pl.col("text"),
    )
    return zip(*(column.to_list() for column in reviews), strict=True)


def words_of(text: str) -> list[str]:
    """List the words of a text in lower case. The exact pattern takes 5 times as long as Python's own \\w."""
    ascii_word, any_word = word_patterns()
    return (ascii_word if text.isascii() else any_word).findall(text)


@lru_cache
def word_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the pattern of a word in an ASCII text, and in any text."""
    codes = {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in WORD_CATEGORIES}
    codes.update(code for first, last in WORD_OTHERS for code in range(first, last + 1))
    letter = code_ranges(codes, r"\U%08x-\U%08x")
    return re.compile(WORD), re.compile(WORD.replace(r"\w", f"[{letter}]"))


def write_counts(path: Path, by_stars: dict[int, Counter[str]], documents: Counter[str], seen: dict[str, int]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.domain.schemas import WORD_COUNTS

    tokens = sorted(documents)  # by code point, which is the order of UTF-8's bytes
    columns: dict[str, list[Any]] = {"token": tokens, "n": [1] * len(tokens)}
    columns["documents"] = [documents[token] for token in tokens]
    columns |= {f"rating_{stars}": [counts[token] for token in tokens] for stars, counts in by_stars.items()}
    columns["count"] = [sum(counts) for counts in zip(*(columns[f"rating_{k}"] for k in STARS), strict=True)]
    columns["first_seen"] = [seen[token] for token in tokens]
    pq.write_table(pa.table({f.name: pa.array(columns[f.name], f.type) for f in WORD_COUNTS}), path, **ZSTD)


def spark(job: Job) -> SelfTimed:
    done = spark_side.run("wordcount", job.text.folder, job.scratch, job.workers)
    return spark_side.output_of(done, Output(spark_side.written(done.output[0], "words")))


def check(job: Job, ours: Output, peers: Mapping[str, Output]) -> str:
    """Compare every column of every word. Raises AssertionError naming a word that differs."""
    mine = read(ours).sort("token")  # files are sorted, and a word's own hash decides its file
    for name, output in peers.items():
        compare(mine, read(output), f"ours and {name}")
    return (
        f"{len(mine):,} different words, {mine['count'].sum():,} in all, of {job.text}: every column equal to "
        + ", ".join(peers)
    )


def read(output: Output) -> Any:
    import polars as pl
    import pyarrow as pa

    from tasks.core.snapshots import read_tables
    from tasks.domain.schemas import WORD_COUNTS

    table: pa.Table = read_tables(output.files, WORD_COUNTS.names).cast(WORD_COUNTS)
    return pl.DataFrame(pl.from_arrow(table))


def compare(ours: Any, theirs: Any, who: str) -> None:
    if ours.equals(theirs):
        return
    missing = ours.join(theirs, on="token", how="anti"), theirs.join(ours, on="token", how="anti")
    for rows, side in zip(missing, who.split(" and "), strict=True):
        assert not len(rows), f"{len(rows):,} words only of {side}, {who}; the first: {rows['token'][0]!r}"
    both = ours.join(theirs, on=ours.columns, how="anti")
    assert not len(both), f"{len(both):,} words differ, {who}; the first: {difference(both.row(0, named=True), theirs)}"
    raise AssertionError(f"words are repeated or not in order, {who}")


def difference(mine: dict[str, Any], theirs: Any) -> str:
    yours = theirs.filter(theirs["token"] == mine["token"]).row(0, named=True)
    return f"{mine['token']!r}, " + ", ".join(f"{c}: {mine[c]} and {yours[c]}" for c in mine if mine[c] != yours[c])


PEERS = {side.__name__: side for side in (polars, polars_two_steps, duckdb, duckdb_histogram, counter)}


def prepare(name: str) -> None:
    if name.startswith("duckdb"):
        import duckdb as db

        db.connect().execute("SELECT 1").fetchall()
    elif name == "counter":
        word_patterns()


CASE = Case(
    name="wordcount",
    size_of="megabytes",
    default_size=200,
    prepare=start,
    ours=ours,
    peers={**{name: peer("benchmarks.cases.wordcount", name) for name in PEERS}, "spark": spark},
    check=check,
    measure_input=measure_input,
    details=speeds,
    takes_input=True,
    check_is_warm_up=True,
    skip=lambda _size: without("duckdb", PEERS) | spark_side.skip(),
)


if __name__ == "__main__":
    sys.exit(run_alone(PEERS, prepare, "benchmarks.cases.wordcount", __doc__))
