"""Generate reviews in the format of the Amazon US customer reviews release, dirt included, from a seed.

Out: a folder of part files with the release's 15 columns. Users and items have their own means and Zipfian activity,
ratings have a trend in time, and the words depend on the stars, so a model has something to learn. Dirt is added by
`SHARES` and counted. A chunk of rows is a function of (seed, chunk index) alone: ten million rows need no more memory
than ten thousand, and a smaller sample is the beginning of a bigger one.

    raymill data synth --rows 1000000 --seed 7 --out data/synth
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from scipy.special import ndtri

from tasks.algorithms.splitmix import GOLDEN, mix
from tasks.core.errors import InputError
from tasks.sources.synth_files import SCHEMA, TEXT, TsvWriter, appearing, in_words, with_columns
from tasks.sources.synth_language import CAPITAL, SPELLINGS, language, seeded

Format = Literal["parquet", "csv", "tsv"]


# Each kind of dirt and its share of the rows. Kinds of BODY, of STAR and of DATE exclude each other.
INLINE = {"line_break": 0.2, "entity": 0.06, "quote": 0.03, "blank_run": 0.02, "tag": 0.01, "accent": 0.01}
INLINE |= {"url": 0.005, "emoji": 0.005, "control": 0.002}
BODY = {"null_body": 0.001, "empty_body": 0.0005, "cjk_body": 0.001}
STAR = {"star_out_of_range": 0.002, "null_star": 0.0005, "star_in_words": 0.0005}
DATE = {"null_date": 0.0005, "date_in_words": 0.0005}
OTHER = {"null_headline": 0.001, "category_case": 0.002, "flag_case": 0.002, "no_customer": 0.001}
REPEATED = {"exact_duplicate": 0.003, "reviewed_again": 0.003}  # a whole row; the same user and item, a later date
SHARES = INLINE | BODY | STAR | DATE | OTHER | REPEATED
TEXT_ONLY = ("star_in_words", "date_in_words")  # typed columns cannot hold these
UNUSABLE = ("no_customer", *STAR, *DATE)  # a cleaner has to reject these rows; it can repair all others

CHUNK = 8192  # rows made at once, and the most in a row group: those are the unit of parallelism downstream
HEAD = 128  # the first rows of a chunk; they can be made alone, so that later chunks can repeat them
FILE_GROUPS = 12
USERS, ITEMS = 30_000_000, 300_000
FIRST_DAY, LAST_DAY = 10_957, 16_800  # 2000-01-01 and 2015-12-31, in days since 1970
STAR_CUTS = ndtri(np.cumsum([0.08, 0.06, 0.09, 0.19]))  # the rest, 58%, are five stars

CATEGORIES = ("Books", "Digital_Ebook_Purchase", "Beauty", "Kitchen", "Toys", "Music", "Major Appliances")


@dataclass(frozen=True)
class SynthReport:
    """What was written: rows, bytes and files, the rows with each kind of dirt, and the unusable rows."""

    rows: int
    bytes: int
    files: int
    dirt: dict[str, int]
    unusable: int


def synthesize(
    rows: int,
    seed: int,
    out: Path,
    *,
    fmt: Format = "parquet",
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> SynthReport:
    """Write `rows` reviews to the folder `out`, which appears when complete; `progress` gets the rows just written.

    The bytes depend on rows, seed, fmt and the versions of NumPy, SciPy and Arrow. Raises InputError where rows or
    seed are out of range or `out` is not free; `overwrite` replaces existing part files.
    """
    if rows < 1 or seed < 0:
        raise InputError(f"cannot make {rows} rows from seed {seed}", fix="give at least 1 row and a seed of 0 or more")
    group = min(CHUNK, max(1000, -(-rows // 8)))
    file_groups = min(FILE_GROUPS, -(-rows // (8 * group)))
    kinds = [k for k in SHARES if fmt != "parquet" or k not in TEXT_ONLY]
    dirt, unusable = dict.fromkeys(kinds, 0), 0
    with appearing(out.expanduser().resolve(), overwrite) as folder:
        writer = _WRITERS[fmt](folder / f"part-00000.{fmt}")
        for index, table in enumerate(_groups(seed, rows, group)):
            if index and index % file_groups == 0:
                writer.close()
                writer = _WRITERS[fmt](folder / f"part-{index // file_groups:05d}.{fmt}")
            writer.write_table(table.select(SCHEMA.names) if fmt == "parquet" else in_words(table))
            marks = {k: table[k].to_numpy() for k in kinds}
            dirt = {k: n + int(marks[k].sum()) for k, n in dirt.items()}
            unusable += int(np.any([marks[k] for k in UNUSABLE if k in marks], axis=0).sum())
            if progress:
                progress(table.num_rows)
        writer.close()
        sizes = [p.stat().st_size for p in folder.iterdir()]
    return SynthReport(rows=rows, bytes=sum(sizes), files=len(sizes), dirt=dirt, unusable=unusable)


_PLAIN = ("marketplace", "product_title", "product_category", "star_rating", "helpful_votes", "total_votes")
_WRITERS: dict[Format, Callable[[Path], pq.ParquetWriter | pa_csv.CSVWriter | TsvWriter]] = {
    # Texts never repeat: encoding them with a dictionary only costs time.
    "parquet": lambda path: pq.ParquetWriter(
        path, SCHEMA, compression="zstd", compression_level=1, use_dictionary=[*_PLAIN, "vine", "verified_purchase"]
    ),
    "csv": lambda path: pa_csv.CSVWriter(path, TEXT, write_options=pa_csv.WriteOptions(quoting_style="all_valid")),
    "tsv": TsvWriter,
}


def _groups(seed: int, rows: int, size: int) -> Iterator[pa.Table]:
    """Yield the first `rows` rows of this seed's endless sample, `size` at a time (the last group may be smaller)."""
    chunks = (_chunk(seed, index) for index in count())
    have, left = next(chunks), rows
    while left:
        group_rows = min(size, left)
        while have.num_rows < group_rows:
            have = pa.concat_tables([have, next(chunks)])
        yield have.slice(0, group_rows)
        have, left = have.slice(group_rows), left - group_rows


def _chunk(seed: int, index: int) -> pa.Table:
    """Make CHUNK rows with the columns of SCHEMA and a bool column for each kind of dirt."""
    _, head = _head(seed, index)
    rng = seeded(seed, index, 1)
    # Repeated rows come from any chunk up to this one, so deduplication has to compare across files.
    old_facts, old = _head(seed, int(rng.integers(index + 1)))
    twins = old.take(rng.choice(HEAD, round(CHUNK * SHARES["exact_duplicate"]), replace=False))
    twins = with_columns(twins, exact_duplicate=pa.array(np.ones(twins.num_rows, dtype=bool)))
    again = rng.choice(HEAD, round(CHUNK * SHARES["reviewed_again"]), replace=False)
    facts = _Facts.draw(rng, CHUNK - HEAD - twins.num_rows)
    first, older = slice(len(again)), old_facts.day[again]
    facts.user[first], facts.item[first] = old_facts.user[again], old_facts.item[again]
    facts.day[first] = LAST_DAY - (rng.random(len(again)) * (LAST_DAY - older)).astype(np.int64)
    marked = np.arange(len(facts.user)) < len(again)
    rest = _reviews(rng, seed, facts, serial=index * CHUNK + HEAD, spare=marked)
    rest = with_columns(rest, reviewed_again=pa.array(marked))
    shuffled = pa.concat_tables([rest, twins]).take(rng.permutation(CHUNK - HEAD))
    return pa.concat_tables([head, shuffled]).combine_chunks()


def _head(seed: int, index: int) -> tuple[_Facts, pa.Table]:
    """Make the first rows of a chunk, all of them usable."""
    rng = seeded(seed, index, 0)
    facts = _Facts.draw(rng, HEAD)
    return facts, _reviews(rng, seed, facts, serial=index * CHUNK, spare=np.ones(HEAD, dtype=bool))


@dataclass(frozen=True)
class _Facts:
    """Who reviews what, and when: int64 arrays of one length."""

    user: np.ndarray
    item: np.ndarray
    day: np.ndarray

    @staticmethod
    def draw(rng: np.random.Generator, n: int) -> _Facts:
        def zipf(total: int, flat: float) -> np.ndarray:  # Zipf-Mandelbrot: P(k) is about 1 / (k + flat)
            return (flat * ((1 + total / flat) ** rng.random(n) - 1)).astype(np.int64)

        days = (LAST_DAY - FIRST_DAY) * rng.random(n) ** 0.4  # more reviews every year; never the last day
        return _Facts(user=zipf(USERS, 100), item=zipf(ITEMS, 20), day=FIRST_DAY + days.astype(np.int64))


def _reviews(rng: np.random.Generator, seed: int, facts: _Facts, serial: int, spare: np.ndarray) -> pa.Table:
    """Write the reviews of these facts, numbered from `serial`, with dirt; rows in `spare` stay usable."""
    n, words = len(facts.user), language()
    user, item = _hash(facts.user, seed, 1), _hash(facts.item, seed, 2)
    age = (facts.day - FIRST_DAY) / (LAST_DAY - FIRST_DAY)
    # The variances sum to one, so that the cuts give the wanted shares of stars.
    liking = 0.45 * _normal(user) + 0.45 * _normal(item) + 0.35 * (age - 0.71) + 0.77 * rng.standard_normal(n)
    star = np.searchsorted(STAR_CUTS, liking) + 1
    # Some reviews sound better or worse than their stars: no model reaches a loss of zero.
    tone = np.clip(star + rng.choice([-1, 0, 1], n, p=[0.1, 0.8, 0.1]), 1, 5) - 1

    dirt = {k: np.zeros(n, dtype=bool) for k in SHARES}
    for kinds in (BODY, STAR, DATE, *({k: share} for k, share in OTHER.items())):
        at, low = rng.random(n), 0.0
        for kind, share in kinds.items():
            dirt[kind] = (low <= at) & (at < low + share) & ~(spare & (kind in UNUSABLE))
            low += share

    lengths = np.clip(np.exp(rng.normal(4.1, 1.05, n)), 2, 2000).astype(np.int64)
    tokens, starts = words.write(rng, lengths, tone, opinions=0.07)
    foreign = np.flatnonzero(np.repeat(dirt["cjk_body"], lengths))
    tokens[foreign] = rng.choice(words.special["cjk_body"], len(foreign))
    ordinary = ~(dirt["null_body"] | dirt["empty_body"] | dirt["cjk_body"])
    placed = {}
    for kind, share in INLINE.items():
        rows = np.flatnonzero(ordinary & (rng.random(n) < share))
        at = starts[rows] + (rng.random(len(rows)) * lengths[rows]).astype(np.int64)
        tokens[at] = rng.choice(words.special[kind], len(rows))
        placed[kind] = rows, at
    for kind, (rows, at) in placed.items():  # a later kind may have overwritten an earlier one
        dirt[kind][rows[np.isin(tokens[at], words.special[kind])]] = True
    body = pc.if_else(dirt["empty_body"], "", words.join(tokens, starts))

    headline = words.join(*words.write(rng, rng.poisson(3.2, n) + 1, tone, opinions=0.3))
    star_names = pa.array(["One Star", "Two Stars", "Three Stars", "Four Stars", "Five Stars"])
    headline = pc.if_else(rng.random(n) < 0.08, star_names.take(pa.array(star - 1)), headline)

    sizes = (_hash(facts.item, seed, 3) % 6).astype(np.int64) + 2  # words in the item's title
    firsts = np.cumsum(sizes) - sizes
    slot = np.repeat(facts.item * 8 - firsts, sizes) + np.arange(sizes.sum())
    title = words.join(words.sampled[_hash(slot, seed, 4) % words.sampled.size] * SPELLINGS + CAPITAL, firsts)
    category = pa.array(CATEGORIES).take(pa.array(item % len(CATEGORIES)))
    votes = np.clip(np.exp(rng.normal(-0.3, 1.6, n)), 0, 3000).astype(np.int32)
    strange = np.where(dirt["star_out_of_range"], rng.choice([0, 6, 7], n), star)
    flags = {"vine": rng.random(n) < 0.005, "verified_purchase": rng.random(n) < 0.2 + 0.6 * age}
    yes_no = pa.array(["N", "Y", "n", "y"])
    values = {
        "marketplace": pa.array(np.full(n, "US")),
        "customer_id": pa.array(10_000_000 + facts.user * PRIME % 40_000_000, mask=dirt["no_customer"]),
        "review_id": _base36("R", _hash(np.arange(serial, serial + n), seed, 5), 13),
        "product_id": _base36("B00", (facts.item * PRIME % 36**7).astype(np.uint64), 7),
        "product_parent": pa.array(100_000_000 + facts.item * PRIME % 900_000_000),
        "product_title": title,
        "product_category": pc.if_else(dirt["category_case"], pc.utf8_lower(category), category),
        "star_rating": pa.array(strange, mask=dirt["null_star"]),
        "helpful_votes": pa.array(rng.binomial(votes, 0.35 + 0.1 * tone)),
        "total_votes": pa.array(votes),
        **{name: yes_no.take(pa.array(flag + 2 * dirt["flag_case"])) for name, flag in flags.items()},
        "review_headline": pc.if_else(dirt["null_headline"], None, headline),
        "review_body": pc.if_else(dirt["null_body"], None, body),
        "review_date": pa.array(facts.day.astype(np.int32), mask=dirt["null_date"]),
    }
    columns = [values[f.name].cast(f.type) for f in SCHEMA] + [pa.array(mask) for mask in dirt.values()]
    return pa.table(columns, names=[*SCHEMA.names, *dirt])


PRIME = 2_654_435_761  # multiplying by it scatters ids and keeps them distinct


def _hash(numbers: np.ndarray, seed: int, salt: int) -> np.ndarray:
    """Hash int64 numbers to uint64 by SplitMix64, without collisions.

    So an item has the same title in every chunk, and nothing has to store it.
    """
    z = numbers.astype(np.uint64) + np.uint64((seed * 0x632BE59BD9B4E019 + salt * GOLDEN) % 2**64)
    return mix(z)


def _normal(hashes: np.ndarray) -> np.ndarray:
    return np.asarray(ndtri(((hashes >> np.uint64(12)) + 0.5) / 2.0**52))


def _base36(prefix: str, numbers: np.ndarray, width: int) -> pa.Array:
    digits = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)
    powers = np.uint64(36) ** np.arange(width - 1, -1, -1, dtype=np.uint64)
    body = digits[numbers[:, None] // powers % np.uint64(36)]
    head = np.broadcast_to(np.frombuffer(prefix.encode(), dtype=np.uint8), (len(numbers), len(prefix)))
    ids = np.ascontiguousarray(np.hstack([head, body]))
    return pa.array(ids.view(f"S{ids.shape[1]}").ravel(), pa.binary()).cast(pa.string())
